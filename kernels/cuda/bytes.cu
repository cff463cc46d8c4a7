// Y^T = W X^T on INT8 tensor cores: for many tokens, and for group sizes that are not a multiple of 128.
//
// Weights stay bit planes in memory and are unpacked to unsigned bytes in registers; activations are stored as bytes. A
// block computes Rows x warps_n row tiles by Columns x warps_m column tiles of 8 tokens. Activations are staged in shared
// memory by asynchronous copies, in a pipeline of three half chunks; weights are loaded one half chunk ahead. A ninth plane
// (W8*) does not fit into a byte: its bits are multiplied as 128 and the product is added twice.
#include <epilogue.cuh>

static constexpr int kStages = 3;

template <int Planes, int Rows, int Columns, bool Grouped>
struct ByteProduct {
    static constexpr int kLow = Planes < 8 ? Planes : 8;
    const ProductArguments& a;
    const u32 lane, warp_n, warp_m, warps_m;
    const int tile0, token0;

    struct Weights {
        uint2 w[Rows][Planes];  // x: row g, y: row g + 8
    };

    DEVICE explicit ByteProduct(const ProductArguments& arguments)
        : a(arguments), lane(thread() % 32), warp_n(thread() / 32 % arguments.warps_n),
          warp_m(thread() / 32 / arguments.warps_n), warps_m(threads() / 32 / arguments.warps_n),
          tile0(static_cast<int>(block_x() * arguments.warps_n + warp_n) * Rows),
          token0(static_cast<int>(block_y() * warps_m * Columns * 8)) {}

    DEVICE int token_of(int column, int e) const {
        return token0 + static_cast<int>(warp_m * Columns + column) * 8 + 2 * (lane % 4) + e;
    }
    DEVICE int row_of(int row_tile, int hi) const { return (tile0 + row_tile) * 16 + 8 * hi + lane / 4; }

    DEVICE void load_weights(Weights& weights, int step) const {
        const Global<const uint2> source(reinterpret_cast<const uint2*>(a.weight));
        for (int row = 0; row < Rows; row++) {
            const bool inside = tile0 + row < a.tiles;
            const long long base = (static_cast<long long>(tile0 + row) * a.chunks + step / 2) * Planes;
            for (int j = 0; j < Planes; j++) {
                weights.w[row][j] = uint2();
                if (inside) weights.w[row][j] = load_constant<uint2>(source, ((base + j) * 32 + lane) * 2 + step % 2);
            }
        }
    }

    // Copy half chunk `step` of the block's tokens: 128 bytes per token as eight 16-byte words. Odd tokens swap neighbouring
    // words, so that the eight lanes of a quarter warp read all 32 banks without conflicts.
    DEVICE void fetch_acts(Shared<uint4> stage, int step) const {
        const Global<const uint4> codes(static_cast<const uint4*>(a.acts));
        const int tokens = warps_m * Columns * 8, padded_m = (a.m + 7) / 8 * 8;
        for (int i = thread(); i < tokens * 8; i += threads()) {
            const int token = i / 8, part = i % 8;
            if (token0 + token >= padded_m) continue;
            const long long from = (static_cast<long long>(token0 + token) * a.chunks * 2 + step) * 8 + part;
            copy_async(stage, token * 8 + (part ^ (token & 1)), codes, from);
        }
    }

    // Transpose four 8 x 8 bit matrices in place: bit r + 8 c of words[j] (plane j) becomes bit j + 8 c of words[r].
    static DEVICE void transpose(u32 (&words)[8]) {
        const u32 masks[3] = {0x55555555u, 0x33333333u, 0x0f0f0f0fu};
#pragma unroll
        for (int level = 0; level < 3; level++) {
            const int gap = 1 << level;
            const u32 mask = masks[level];
#pragma unroll
            for (int i = 0; i < 8; i++) {
                if (i & gap) continue;
                const u32 low = words[i], high = words[i + gap];
                words[i] = (low & mask) | ((high & mask) << gap);
                words[i + gap] = ((low >> gap) & mask) | (high & ~mask);
            }
        }
    }

    static DEVICE void unpack(const u32 (&planes)[Planes], u32 (&bytes)[8]) {
        if constexpr (Planes >= 4) {
#pragma unroll
            for (int j = 0; j < 8; j++) bytes[j] = j < Planes ? planes[j] : 0;
            transpose(bytes);
        } else {
#pragma unroll
            for (int r = 0; r < 8; r++) {
                bytes[r] = 0;
#pragma unroll
                for (int j = 0; j < kLow; j++) bytes[r] |= ((planes[j] >> r) & 0x01010101u) << j;
            }
        }
    }

    DEVICE void close_group(int (&acc)[Rows][Columns][4], float (&y)[Rows][Columns][4], int group) const {
        RowTerms terms[Rows][2];
#pragma unroll
        for (int row = 0; row < Rows; row++)
            for (int hi = 0; hi < 2; hi++) terms[row][hi] = row_terms(a, row_of(row, hi), group);
#pragma unroll
        for (int column = 0; column < Columns; column++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                const int token = token_of(column, e);
                const TokenTerms of_token = token_terms(a, token, group);
#pragma unroll
                for (int row = 0; row < Rows; row++)
#pragma unroll
                    for (int hi = 0; hi < 2; hi++) {
                        int& sum = acc[row][column][2 * hi + e];
                        float& to = y[row][column][2 * hi + e];
                        to = add(to, scaled(a, sum, terms[row][hi], of_token, token, row_of(row, hi), group));
                        sum = 0;
                    }
            }
    }

    DEVICE void run(int first, int last) const {
        const int tokens = warps_m * Columns * 8;
        int acc[Rows][Columns][4] = {};
        float y[Grouped ? Rows : 1][Grouped ? Columns : 1][4] = {};
        Weights now, next;
        const Shared<uint4> stages = shared_at<uint4>(0);
        for (int s = 0; s < kStages - 1; s++) {
            if (first + s < last) fetch_acts(stages + s * tokens * 8, first + s);
            commit_copies();
        }
        if (first < last) load_weights(next, first);
        for (int step = first; step < last; step++) {
            now = next;
            if (step + 1 < last) load_weights(next, step + 1);
            wait_copies<kStages - 2>();
            sync_block();
            const int ahead = step + kStages - 1;
            if (ahead < last) fetch_acts(stages + (ahead - first) % kStages * tokens * 8, ahead);
            commit_copies();
            multiply_half(now, stages + (step - first) % kStages * tokens * 8, step, acc, y);
        }
        wait_copies<0>();
        sync_block();
#pragma unroll
        for (int row = 0; row < Rows; row++)
#pragma unroll
            for (int column = 0; column < Columns; column++)
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    u32 sum = static_cast<u32>(acc[row][column][e]);
                    if constexpr (Grouped) sum = float_as_bits(y[row][column][e]);
                    emit<Grouped>(a, sum, token_of(column, e % 2), row_of(row, e / 2));
                }
        const int rows = 16 * Rows * a.warps_n;
        join_splits<Grouped>(a, static_cast<int>(block_x()) * rows, rows, token0, tokens);
    }

    template <class Sums>
    DEVICE void multiply_half(const Weights& weights, Shared<uint4> stage, int step, int (&acc)[Rows][Columns][4],
                              Sums& y) const {
        u32 bytes[Rows][2][8];
#pragma unroll
        for (int row = 0; row < Rows; row++)
#pragma unroll
            for (int hi = 0; hi < 2; hi++) {
                u32 planes[Planes];
#pragma unroll
                for (int j = 0; j < Planes; j++) planes[j] = hi ? weights.w[row][j].y : weights.w[row][j].x;
                unpack(planes, bytes[row][hi]);
            }
#pragma unroll
        for (int half = 0; half < 2; half++) {  // 64 columns: words 4 half .. 4 half + 3
            uint4 b[Columns];
#pragma unroll
            for (int column = 0; column < Columns; column++) {
                const u32 token = (warp_m * Columns + column) * 8 + lane / 4;
                b[column] = stage[token * 8 + ((lane % 4 * 2 + half) ^ (token & 1))];
            }
#pragma unroll
            for (int s = 0; s < 2; s++) {  // 32 columns
                const int r = 4 * half + 2 * s;
#pragma unroll
                for (int row = 0; row < Rows; row++) {
                    const u32 w[4] = {bytes[row][0][r], bytes[row][1][r], bytes[row][0][r + 1], bytes[row][1][r + 1]};
#pragma unroll
                    for (int column = 0; column < Columns; column++) {
                        const u32 b0 = s ? b[column].z : b[column].x, b1 = s ? b[column].w : b[column].y;
                        mma_u8(acc[row][column], w, b0, b1);
                        if constexpr (Planes == 9) add_ninth(weights, row, r, b0, b1, acc[row][column]);
                    }
                }
                if constexpr (Grouped) {
                    const int done = step * 4 + r / 2 + 1, per_group = a.group / 32;  // in 32 columns
                    if (done % per_group == 0 || done == a.steps * 4) {
                        const int group = (done - 1) / per_group;
                        if (group < a.groups) close_group(acc, y, group);
                    }
                }
            }
        }
    }

    static DEVICE void add_ninth(const Weights& weights, int row, int r, u32 b0, u32 b1, int (&acc)[4]) {
        const uint2 plane = weights.w[row][Planes - 1];
        const u32 w[4] = {((plane.x >> r) & 0x01010101u) << 7, ((plane.y >> r) & 0x01010101u) << 7,
                          ((plane.x >> (r + 1)) & 0x01010101u) << 7, ((plane.y >> (r + 1)) & 0x01010101u) << 7};
        mma_u8(acc, w, b0, b1);
        mma_u8(acc, w, b0, b1);
    }
};

template <int Planes, int Rows, int Columns, bool Grouped>
DEVICE void byte_product(const ProductArguments& a) {
    const ByteProduct<Planes, Rows, Columns, Grouped> product(a);
    const int first = worker_start(a, block_z()), end = worker_start(a, block_z() + 1), last = end < a.steps ? end : a.steps;
    prefetch_rows(a, product.tile0, Rows, Planes, first / 2, (last + 1) / 2);
    wait_for_previous();
    product.run(first, last);
}
