// Kernels before and after torch's INT8 product (cuBLASLt), our baseline: symmetric quantization of the tokens, and scaling
// of the sums. One launch each, with the norm or gate fused (inputs.cuh), so that the comparison is about the product.
#include <inputs.cuh>

struct RoundArguments {
    InputArguments input;
    u32* codes;    // (padded m, k) int8, four a word: k is a multiple of 4
    float* scale;  // (m,)
};

struct ScaleArguments {
    const int* sums;           // (padded m, n)
    const float* token_scale;  // (m,)
    const float* scale;        // (n,)
    const void* bias;          // (n,), or null
    void* out;                 // (m, n)
    int n;
};

constexpr float kTop = 127.0f;
constexpr float kLeast = 1e-6f;  // lower bound of a token's peak: avoids a zero scale for a token of zeros

// Quantize one token per block. A token with NaN or infinity gets scale NaN. Padding rows stay uninitialized: their sums are
// never read.
template <int Type, int Kind>
DEVICE void round_tokens(const RoundArguments& a) {
    wait_for_previous();
    const int token = block_x(), k = a.input.k;
    const u32 lane = thread() % 32, warp = thread() / 32, warps = threads() / 32;
    const Global<u32> codes(a.codes);
    const long long first = static_cast<long long>(token) * (k / 4);
    float factor = 0.0f;
    if constexpr (Kind == NORMED) factor = add_and_norm<Type>(a.input, token);
    int peak = 0;  // bit pattern of the largest magnitude: orders like the magnitude, infinity and NaN last
    for (int column = 4 * thread(); column < k; column += 4 * threads()) {
        float v[4];
        input_four<Type, Kind>(a.input, token, column, factor, v);
        for (int c = 0; c < 4; c++) {
            const int magnitude = static_cast<int>(float_as_bits(v[c]) & 0x7fffffffu);
            peak = magnitude > peak ? magnitude : peak;
        }
    }
    peak = largest_in_warp(peak);
    const Shared<int> peaks = shared_at<int>(0);
    if (lane == 0) peaks[warp] = peak;
    sync_block();
    if (lane < warps) peak = peaks[lane];
    peak = largest_in_warp(peak);
    const bool not_finite = peak >= 0x7f800000;
    const float largest = bits_as_float(static_cast<u32>(peak));
    const Divisor scale(divide(largest > kLeast ? largest : kLeast, kTop));
    for (int column = 4 * thread(); column < k; column += 4 * threads()) {
        float v[4];
        input_four<Type, Kind>(a.input, token, column, factor, v);
        u32 four = 0;
        for (int c = 0; c < 4; c++) {
            const int code = not_finite ? 0 : static_cast<int>(round_even(scale.quotient(v[c])));
            four |= (static_cast<u32>(code) & 0xffu) << 8 * c;
        }
        store(codes, first + column / 4, four);
    }
    if (thread() == 0) store(Global<float>(a.scale), token, not_finite ? bits_as_float(0x7fc00000u) : scale.by);
}

// Each thread turns one sum into one output.
template <int Type>
DEVICE void scale_sums(const ScaleArguments& a) {
    wait_for_previous();
    typedef typename Element<Type>::One One;
    const int row = block_x() * threads() + thread(), token = block_y();
    if (row >= a.n) return;
    const long long i = static_cast<long long>(token) * a.n + row;
    const float sum = to_float(load<int>(Global<const int>(a.sums), i));
    const float of_token = load<float>(Global<const float>(a.token_scale), token);
    float y = rounded<Type>(multiply(multiply(sum, of_token), load_constant<float>(Global<const float>(a.scale), row)));
    if (a.bias) y = add(y, as_float<Type>(read<One, false>(a.bias, row)));
    store(Global<One>(static_cast<One*>(a.out)), i, as_element<Type>(y));
}
