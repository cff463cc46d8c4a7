// Exposes Divisor::quotient (inputs.cuh) to a test that compares it with IEEE 754 division.
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
