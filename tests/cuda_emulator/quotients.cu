// The quotients of inputs.cuh one by one, for a test that compares them with the division of IEEE 754.
#include <inputs.cuh>

struct QuotientArguments {
    const float *values, *divisors;
    float* quotients;
    int count;
};

DEVICE void divide_all(const QuotientArguments& a) {
    wait_for_previous();
    const Global<const float> values(a.values), divisors(a.divisors);
    for (int i = thread(); i < a.count; i += threads()) {
        const Divisor divisor(load<float>(divisors, i));
        store(Global<float>(a.quotients), i, divisor.quotient(load<float>(values, i)));
    }
}
