// From integer sums to outputs: zero points, scales, bias, rounding; and the reduction over blocks that split K.
#pragma once
#include <arguments.cuh>

// Start of worker i's range of columns, in chunks (binary.cu) or steps (bytes.cu).
DEVICE int worker_start(const ProductArguments& a, int worker) {
    return (worker * a.share + (worker < a.extra ? worker : a.extra)) * a.unit;
}

// Prefetch the start of a warp's weight, and the scales, sums and zero points of its rows, into the L2 cache. Called before
// `wait_for_previous`, so that the loads overlap the previous launch. For row tiles tile0 .. tile0 + rows - 1 (at most 32)
// and their chunks first .. last - 1.
DEVICE void prefetch_rows(const ProductArguments& a, int tile0, int rows, int planes, int first, int last) {
    const int lane = thread() % 32, tile = tile0 + lane, bytes = (last - first) * planes * 512;
    if (a.prefetch_bytes == 0 || bytes <= 0 || lane >= rows || tile >= a.tiles) return;
    const long long from = (static_cast<long long>(tile) * a.chunks + first) * planes * 32;
    prefetch<uint4>(Global<const uint4>(a.weight), from, bytes < a.prefetch_bytes ? bytes : a.prefetch_bytes);
    if (thread() >= 32 || a.groups > 1) return;
    prefetch<float>(Global<const float>(a.scale), tile * 16, 64);
    prefetch<int>(Global<const int>(a.sums), tile * 16, 64);
    prefetch<short>(Global<const short>(a.zero), tile * 16, 32);
}

// The terms of one group's sum that depend on the weight row alone, and on the token alone.
struct RowTerms {
    float scale;
    int zero, sum;
};
struct TokenTerms {
    int zero, sum;
};

// Rows and tokens past the end load the last one; their results are discarded.
DEVICE RowTerms row_terms(const ProductArguments& a, int row, int group) {
    const int padded_n = a.tiles * 16;
    const long long i = static_cast<long long>(group) * padded_n + (row < padded_n ? row : padded_n - 1);
    return {load_constant<float>(Global<const float>(a.scale), i), load_constant<short>(Global<const short>(a.zero), i),
            load_constant<int>(Global<const int>(a.sums), i)};
}
DEVICE TokenTerms token_terms(const ProductArguments& a, int token, int group) {
    const int i = token < a.m ? token : a.m - 1;
    return {load<int>(Global<const int>(a.act_zero), i),
            load<int>(Global<const int>(a.act_sums), static_cast<long long>(i) * a.groups + group)};
}

// Turn one group's sum of qa qw into the sum of (qa - za)(spacing qw - zw), times the weight's scale.
DEVICE float scaled(const ProductArguments& a, int product, const RowTerms& r, const TokenTerms& t, int token, int row,
                    int group) {
    const int total = a.spacing * product - r.zero * t.sum - t.zero * r.sum;
    if (a.totals && token < a.m && row < a.n) {
        store(Global<int>(a.totals), (static_cast<long long>(token) * a.n + row) * a.groups + group, total);
    }
    return multiply(to_float(total), r.scale);
}

// Apply the token's scale and the bias, and store. y already contains the weight's scale.
DEVICE void write_output(const ProductArguments& a, float y, int token, int row) {
    y = multiply(y, load<float>(Global<const float>(a.act_scale), token));
    if (a.bias) y = add(y, load_constant<float>(Global<const float>(a.bias), row));
    store_as(a.out, a.type, static_cast<long long>(token) * a.n + row, y);
}

// Turn the sum over all columns into an output. sum: int32 with one group, else scaled float32 bits.
template <bool Grouped>
DEVICE void finish(const ProductArguments& a, u32 sum, int token, int row) {
    if constexpr (Grouped) {
        write_output(a, bits_as_float(sum), token, row);
    } else {
        const RowTerms r = row_terms(a, row, 0);
        write_output(a, scaled(a, static_cast<int>(sum), r, token_terms(a, token, 0), token, row, 0), token, row);
    }
}

template <bool Grouped>
DEVICE u32 plus(u32 a, u32 b) {
    if constexpr (Grouped) return float_as_bits(add(bits_as_float(a), bits_as_float(b)));
    return a + b;
}

// Handle the sum over this block's columns: an output if the block covers all of K, else a partial sum.
template <bool Grouped>
DEVICE void emit(const ProductArguments& a, u32 sum, int token, int row) {
    if (token >= a.m || row >= a.n) return;
    if (blocks_z() == 1) {
        finish<Grouped>(a, sum, token, row);
    } else {
        const long long slab = static_cast<long long>(block_z()) * a.m + token;
        store(Global<u32>(a.partial), slab * a.tiles * 16 + row, sum);
    }
}

// The last block of a tile to arrive adds the partial sums in the order of the splits, so results are deterministic.
// The tile is `rows` x `tokens`, starting at (row0, token0).
template <bool Grouped>
DEVICE void join_splits(const ProductArguments& a, int row0, int rows, int token0, int tokens) {
    const u32 splits = blocks_z();
    if (splits == 1) return;
    if (!arrives_last(a.counters, block_x() + block_y() * blocks_x(), splits)) return;
    for (int i = thread(); i < rows * tokens; i += threads()) {
        const int row = row0 + i % rows, token = token0 + i / rows;
        if (row >= a.n || token >= a.m) continue;
        u32 sum = 0;
        for (u32 s = 0; s < splits; s++) {
            const long long slab = static_cast<long long>(s) * a.m + token;
            sum = plus<Grouped>(sum, load_fresh(Global<u32>(a.partial), slab * a.tiles * 16 + row));
        }
        finish<Grouped>(a, sum, token, row);
    }
}
