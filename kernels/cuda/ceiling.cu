// Peak tensor-core throughput: a loop of mma instructions whose operands stay in registers. kernels/cuda/ceiling.py counts
// the operations and computes the expected sums.
#include <device.cuh>

struct CeilingArguments {
    const u32* left;   // (4 registers, 32 lanes): the 16-row operand
    const u32* right;  // (8 fragments, 2 registers, 32 lanes): 8-column operands
    int* sums;         // (blocks, threads, 4): each lane's four accumulators, summed over the fragments
    int steps;
};

// Independent accumulators and distinct operands: no mma waits for another, and none can be eliminated as a common
// subexpression.
constexpr int kFragments = 8;

template <bool Bits>
DEVICE void multiply_add(int (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    if constexpr (Bits) {
        mma_b1(c, uint4{a[0], a[1], a[2], a[3]}, uint2{b0, b1});
    } else {
        mma_u8(c, a, b0, b1);
    }
}

template <bool Bits>
DEVICE void ceiling(const CeilingArguments& a) {
    wait_for_previous();
    const u32 lane = thread() % 32;
    const Global<const u32> left(a.left), right(a.right);
    u32 rows[4], columns[kFragments][2];
    int sums[kFragments][4] = {};
#pragma unroll
    for (int i = 0; i < 4; i++) rows[i] = load<u32>(left, i * 32 + lane);
#pragma unroll
    for (int f = 0; f < kFragments; f++) {
        for (int i = 0; i < 2; i++) columns[f][i] = load<u32>(right, (f * 2 + i) * 32 + lane);
    }
    for (int step = 0; step < a.steps; step++) {
#pragma unroll
        for (int f = 0; f < kFragments; f++) multiply_add<Bits>(sums[f], rows, columns[f][0], columns[f][1]);
    }
    const long long first = (static_cast<long long>(block_x()) * threads() + thread()) * 4;
    for (int e = 0; e < 4; e++) {
        int sum = 0;
#pragma unroll
        for (int f = 0; f < kFragments; f++) sum += sums[f][e];
        store(Global<int>(a.sums), first + e, sum);
    }
}
