// Read a token's values four at a time: plain, gated (SwiGLU), or RMSNorm of a residual stream.
//
// Every intermediate is rounded to the element type, as transformers' modules round it.
#pragma once
#include <arguments.cuh>

template <int Type>
struct Element {
    typedef u16 One;
    typedef uint2 Four;
};
template <>
struct Element<FLOAT32> {
    typedef float One;
    typedef uint4 Four;
};

template <int Type>
DEVICE float as_float(typename Element<Type>::One element) {
    if constexpr (Type == FLOAT32) {
        return element;
    } else {
        return Type == FLOAT16 ? from_half(element) : from_bfloat(element);
    }
}
template <int Type>
DEVICE typename Element<Type>::One as_element(float v) {
    if constexpr (Type == FLOAT32) {
        return v;
    } else {
        return Type == FLOAT16 ? to_half(v) : to_bfloat(v);
    }
}
template <int Type>
DEVICE float rounded(float v) {
    return as_float<Type>(as_element<Type>(v));
}

// Fresh: set for buffers that this launch may write; they bypass the read-only cache.
template <class T, bool Fresh>
DEVICE T read(const void* from, long long i) {
    if constexpr (Fresh) {
        return load_fresh<T>(Global<T>(static_cast<T*>(const_cast<void*>(from))), i);
    } else {
        return load<T>(Global<const T>(static_cast<const T*>(from)), i);
    }
}

// Read elements i .. i + 3; those from `count` on are 0. vector: the address is aligned, so that a whole group of four can
// be one load.
template <int Type, bool Fresh>
DEVICE void read_four(const void* from, long long i, int count, bool vector, float (&v)[4]) {
    typedef typename Element<Type>::One One;
    typedef typename Element<Type>::Four Four;
    if (vector && count >= 4) {
        const Four w = read<Four, Fresh>(from, i / 4);
        if constexpr (Type == FLOAT32) {
            v[0] = bits_as_float(w.x), v[1] = bits_as_float(w.y), v[2] = bits_as_float(w.z), v[3] = bits_as_float(w.w);
        } else {
            v[0] = as_float<Type>(w.x & 0xffff), v[1] = as_float<Type>(w.x >> 16);
            v[2] = as_float<Type>(w.y & 0xffff), v[3] = as_float<Type>(w.y >> 16);
        }
        return;
    }
    for (int c = 0; c < 4; c++) v[c] = c < count ? as_float<Type>(read<One, Fresh>(from, i + c)) : 0.0f;
}

template <int Type>
DEVICE void write_four(void* to, long long i, int count, bool vector, const float (&v)[4]) {
    typedef typename Element<Type>::One One;
    typedef typename Element<Type>::Four Four;
    if (vector && count >= 4) {
        Four w;
        if constexpr (Type == FLOAT32) {
            w.x = float_as_bits(v[0]), w.y = float_as_bits(v[1]), w.z = float_as_bits(v[2]), w.w = float_as_bits(v[3]);
        } else {
            w.x = as_element<Type>(v[0]) | static_cast<u32>(as_element<Type>(v[1])) << 16;
            w.y = as_element<Type>(v[2]) | static_cast<u32>(as_element<Type>(v[3])) << 16;
        }
        store(Global<Four>(static_cast<Four*>(to)), i / 4, w);
        return;
    }
    for (int c = 0; c < 4 && c < count; c++) store(Global<One>(static_cast<One*>(to)), i + c, as_element<Type>(v[c]));
}

// x += added for a token, by all threads of a block. Returns 1 / sqrt(mean(x^2) + epsilon). Uses 128 bytes of shared
// memory, which the caller may reuse afterwards.
template <int Type>
DEVICE float add_and_norm(const InputArguments& a, int token) {
    const u32 lane = thread() % 32, warp = thread() / 32, warps = threads() / 32;
    const Shared<float> sums = shared_at<float>(0);
    float sum = 0.0f;
    for (int column = 4 * thread(); column < a.k; column += 4 * threads()) {
        float v[4], added[4];
        read_four<Type, true>(a.x, token * a.stride + column, a.k - column, a.vector, v);
        if (a.added) {
            const long long i = static_cast<long long>(token) * a.k + column;
            read_four<Type, false>(a.added, i, a.k - column, a.vector, added);
            for (int c = 0; c < 4; c++) v[c] = rounded<Type>(add(v[c], added[c]));
            write_four<Type>(const_cast<void*>(a.x), token * a.stride + column, a.k - column, a.vector, v);
        }
        for (int c = 0; c < 4; c++) sum = add(sum, multiply(v[c], v[c]));
    }
    for (u32 step = 16; step; step /= 2) sum = add(sum, shuffle_xor(sum, step));
    if (lane == 0) sums[warp] = sum;
    sync_block();
    sum = 0.0f;
    for (u32 w = 0; w < warps; w++) sum = add(sum, sums[w]);
    sync_block();
    return divide(1.0f, square_root(add(divide(sum, to_float(a.k)), a.epsilon)));
}

// The four values of a token at `column`. factor: the result of `add_and_norm`, if the kind is NORMED.
template <int Type, int Kind>
DEVICE void input_four(const InputArguments& a, int token, int column, float factor, float (&v)[4]) {
    const long long i = token * a.stride + column;
    const int count = a.k - column;
    read_four<Type, Kind == NORMED>(a.x, i, count, a.vector, v);
    float other[4];
    if constexpr (Kind == GATED) {
        read_four<Type, false>(a.x, i + a.k, count, a.vector, other);
        for (int c = 0; c < 4; c++) {
            const float gate = rounded<Type>(divide(v[c], add(1.0f, exponential(-v[c]))));
            v[c] = rounded<Type>(multiply(gate, other[c]));
        }
    }
    if constexpr (Kind == NORMED) {
        read_four<Type, false>(a.norm, column, count, a.vector, other);
        for (int c = 0; c < 4; c++) v[c] = rounded<Type>(multiply(rounded<Type>(multiply(v[c], factor)), other[c]));
    }
}

// The range of values on both sides of 0, held as the bit patterns of the magnitudes. Compared as integers, these patterns
// order like the magnitudes, with infinity and NaN last; a value of the opposite sign compares as negative.
struct Range {
    int below = 0, above = 0;

    DEVICE void widen(float v) {
        const int bits = static_cast<int>(float_as_bits(v)), opposite = static_cast<int>(float_as_bits(-v));
        above = bits > above ? bits : above;
        below = opposite > below ? opposite : below;
    }
    // Reduce the range over the lanes of a warp; every lane gets the result.
    DEVICE void widen_in_warp() { below = largest_in_warp(below), above = largest_in_warp(above); }
    DEVICE bool is_finite() const { return below < 0x7f800000 && above < 0x7f800000; }
    DEVICE float low() const { return -bits_as_float(static_cast<u32>(below)); }
    DEVICE float high() const { return bits_as_float(static_cast<u32>(above)); }
};

// Correctly rounded quotients by one divisor, without the branch that `divide` takes for each dividend. The second
// correction step starts within one unit in the last place and 1 / by is correctly rounded, so its result is correctly
// rounded (Markstein, IBM J. Res. Dev. 34, 1990). For divisors far from 1 the remainder may not be representable; `divide`
// is used instead.
struct Divisor {
    float by, inverse;
    bool is_near;

    DEVICE explicit Divisor(float divisor)
        : by(divisor), inverse(divide(1.0f, divisor)), is_near(divisor > 1e-20f && divisor < 1e20f) {}
    DEVICE float quotient(float v) const {
        if (!is_near) return divide(v, by);
        float q = multiply(v, inverse);
        q = fused_multiply_add(fused_multiply_add(-q, by, v), inverse, q);
        return fused_multiply_add(fused_multiply_add(-q, by, v), inverse, q);
    }
};

// A quantization grid: levels 0 .. 2^bits - 1 over [low, high], with low <= 0 <= high. An empty range gets step 1.
struct Grid {
    float levels;
    Divisor step;
    float offset;

    DEVICE Grid(float low, float high, int bits)
        : levels(to_float((1 << bits) - 1)), step(step_of(add(high, -low), levels)),
          offset(round_even(step.quotient(-low))) {}
    static DEVICE float step_of(float range, float levels) {
        const float step = divide(range, levels);
        return step > 0.0f ? step : 1.0f;
    }
    DEVICE float code(float v) const {
        const float nearest = add(round_even(step.quotient(v)), offset);
        const float above = nearest > 0.0f ? nearest : 0.0f;
        return above < levels ? above : levels;
    }
    DEVICE float value(float v) const { return multiply(add(code(v), -offset), step.by); }
};
