// Y^T = W X^T on binary tensor cores: sum(qa qw) = sum over planes of 2^(i+j) popcount(A_i & W_j).
//
// The mma's 16-row operand is 16 rows of one weight plane; its 8-column operand is 8 plane columns of the activations: one
// token at 8 bits, two at 4, four at 2, eight at 1. A warp computes Rows row tiles x Columns column tiles over some of the
// chunks of 256 columns. It loads each weight word once, straight from global memory to registers, in lane order. Partial
// sums are reduced across the warps of a block in shared memory and across the blocks of a tile in global memory
// (epilogue.cuh), both in a fixed order, so that results are deterministic.
//
// Grouped: one scale per group of columns, a multiple of 128. The mma then covers 128 bits; planes are combined right
// after it, and each finished group is scaled and added to float32 sums.
#include <epilogue.cuh>

// Combine an accumulator fragment's plane columns into per-token sums, weighting column j of a token by 2^j.
// Element e of row half `hi`: with one column per token, v[2 hi + e] belongs to token 2 t + e of the tile; otherwise
// v[2 hi] belongs to token 2 t / columns.
DEVICE void join_columns(const ProductArguments& a, int (&v)[4]) {
    if (a.columns_log == 0) return;
    const u32 t = thread() % 4, shift = 2 * t & ((1 << a.columns_log) - 1);
    for (int hi = 0; hi < 2; hi++) {
        int sum = (v[2 * hi] << shift) + (v[2 * hi + 1] << (shift + 1));
        if (a.columns_log >= 2) sum += shuffle_xor(sum, 1);
        if (a.columns_log >= 3) sum += shuffle_xor(sum, 2);
        v[2 * hi] = sum;
    }
}

template <int Planes, int Rows, int Columns, bool Grouped>
struct BinaryProduct {
    static constexpr int kDepth = Planes * Rows >= 8 ? 1 : Planes * Rows >= 4 ? 2 : 4;  // chunks loaded before the first mma
    const ProductArguments& a;
    const u32 lane, warp, warps;
    const int tile0, column0;
    long long weight_at[Rows], acts_at[Columns];  // offsets of this lane's words in a tile's first chunk

    // Tiles past the end load the last tile, so that loads need no branch; their sums are discarded.
    DEVICE explicit BinaryProduct(const ProductArguments& arguments)
        : a(arguments), lane(thread() % 32), warp(thread() / 32), warps(threads() / 32),
          tile0(block_x() * Rows), column0(block_y() * Columns) {
        for (int row = 0; row < Rows; row++) {
            const long long tile = tile0 + row < a.tiles ? tile0 + row : a.tiles - 1;
            weight_at[row] = tile * a.chunks * Planes * 32 + lane;
        }
        const int tiles = ((a.m << a.columns_log) + 7) / 8;
        for (int column = 0; column < Columns; column++) {
            const long long tile = column0 + column < tiles ? column0 + column : tiles - 1;
            acts_at[column] = tile * a.chunks * 32 + lane;
        }
    }

    // Number of tokens in `tiles` column tiles.
    DEVICE int tokens_of(int tiles) const { return tiles * 8 >> a.columns_log; }
    DEVICE int token_of(int column, int e) const {
        const int first = tokens_of(column0 + column), pair = 2 * (lane % 4);
        return first + (a.columns_log == 0 ? pair + e : pair >> a.columns_log);
    }
    DEVICE int row_of(int row_tile, int hi) const { return (tile0 + row_tile) * 16 + 8 * hi + lane / 4; }

    // Whether this lane's element e is the one that stores its token's sum (other lanes may hold copies).
    DEVICE bool owns(int e) const {
        return a.columns_log == 0 || (e == 0 && (2 * (lane % 4) & ((1 << a.columns_log) - 1)) == 0);
    }

    // Load chunk `chunk` + d, where d is a compile-time constant; zeros from chunk `last` on.
    DEVICE void load_chunk(uint4 (&w)[Rows][Planes], uint2 (&b)[Columns], int chunk, int d, int last) const {
        const Global<const uint4> weight(a.weight);
        const Global<const uint2> planes(static_cast<const uint2*>(a.acts));
        const bool in_range = chunk + d < last;
        const long long step = 32ll * chunk;
#pragma unroll
        for (int row = 0; row < Rows; row++)
#pragma unroll
            for (int j = 0; j < Planes; j++)
                w[row][j] = load_once_if(in_range, weight, weight_at[row] + step * Planes + 32 * (d * Planes + j));
#pragma unroll
        for (int column = 0; column < Columns; column++)
            b[column] = load_if(in_range, planes, acts_at[column] + step + 32 * d);
    }

    // sums: (warps, tokens of the block, 16 Rows) in shared memory; each warp writes its own slice.
    DEVICE void store_sum(Shared<u32> sums, int row_tile, int hi, int column, int e, u32 v) const {
        if (!owns(e)) return;
        const int tokens = tokens_of(Columns), token = token_of(column, e) - tokens_of(column0);
        sums[(warp * tokens + token) * (16 * Rows) + row_tile * 16 + 8 * hi + lane / 4] = v;
    }

    DEVICE void add_warps(Shared<u32> sums) const {
        const int tokens = tokens_of(Columns), rows = 16 * Rows, token0 = tokens_of(column0);
        sync_block();
        for (int i = thread(); i < tokens * rows; i += threads()) {
            u32 sum = 0;
            for (u32 w = 0; w < warps; w++) sum = plus<Grouped>(sum, sums[w * tokens * rows + i]);
            emit<Grouped>(a, sum, token0 + i / rows, tile0 * 16 + i % rows);
        }
        join_splits<Grouped>(a, tile0 * 16, rows, token0, tokens);
    }

    // Multiply kDepth chunks; those from `last` on are zeros. All loads are issued before the first mma.
    DEVICE void multiply(int (&acc)[Rows][Columns][Planes][4], int chunk, int last) const {
        uint4 w[kDepth][Rows][Planes];
        uint2 b[kDepth][Columns];
#pragma unroll
        for (int d = 0; d < kDepth; d++) load_chunk(w[d], b[d], chunk, d, last);
#pragma unroll
        for (int d = 0; d < kDepth; d++)
#pragma unroll
            for (int row = 0; row < Rows; row++)
#pragma unroll
                for (int j = 0; j < Planes; j++)
#pragma unroll
                    for (int column = 0; column < Columns; column++)
                        mma_b1(acc[row][column][j], w[d][row][j], b[d][column]);
    }

    DEVICE void run_whole(int first, int last) const {
        int acc[Rows][Columns][Planes][4] = {};
        for (int chunk = first; chunk < last; chunk += kDepth) multiply(acc, chunk, last);
        const Shared<u32> sums = shared_at<u32>(0);
#pragma unroll
        for (int row = 0; row < Rows; row++)
#pragma unroll
            for (int column = 0; column < Columns; column++) {
                int v[4] = {};
#pragma unroll
                for (int j = 0; j < Planes; j++)
                    for (int e = 0; e < 4; e++) v[e] += acc[row][column][j][e] << j;
                join_columns(a, v);
                for (int e = 0; e < 4; e++) store_sum(sums, row, e / 2, column, e % 2, static_cast<u32>(v[e]));
            }
        add_warps(sums);
    }

    DEVICE void close_group(int (&acc)[Rows][Columns][4], float (&y)[Rows][Columns][4], int group) const {
        RowTerms terms[Rows][2];
#pragma unroll
        for (int row = 0; row < Rows; row++)
            for (int hi = 0; hi < 2; hi++) terms[row][hi] = row_terms(a, row_of(row, hi), group);
#pragma unroll
        for (int column = 0; column < Columns; column++) {
            const int tokens[2] = {token_of(column, 0), token_of(column, 1)};
            const TokenTerms of_token[2] = {token_terms(a, tokens[0], group), token_terms(a, tokens[1], group)};
#pragma unroll
            for (int row = 0; row < Rows; row++) {
                join_columns(a, acc[row][column]);
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    int& sum = acc[row][column][e];
                    const int token = owns(e % 2) ? tokens[e % 2] : a.m;
                    float& to = y[row][column][e];
                    to = add(to, scaled(a, sum, terms[row][e / 2], of_token[e % 2], token, row_of(row, e / 2), group));
                    sum = 0;
                }
            }
        }
    }

    DEVICE void run_grouped(int first, int last) const {
        int acc[Rows][Columns][4] = {};
        float y[Rows][Columns][4] = {};
        const int group_steps = a.group / 128;
        for (int chunk = first; chunk < last; chunk++) {
            uint4 w[Rows][Planes];
            uint2 b[Columns];
            load_chunk(w, b, chunk, 0, last);
            for (int h = 0; h < 2; h++) {
                const int step = 2 * chunk + h;
                if (step >= a.steps) break;
#pragma unroll
                for (int row = 0; row < Rows; row++)
#pragma unroll
                    for (int j = 0; j < Planes; j++)
#pragma unroll
                        for (int column = 0; column < Columns; column++) {
                            int product[4] = {};
                            const uint4& fragment = w[row][j];
                            mma_b1_half(product, h ? fragment.z : fragment.x, h ? fragment.w : fragment.y,
                                        h ? b[column].y : b[column].x);
                            for (int e = 0; e < 4; e++) acc[row][column][e] += product[e] << j;
                        }
                if ((step + 1) % group_steps == 0 || step + 1 == a.steps) close_group(acc, y, step / group_steps);
            }
        }
        const Shared<u32> sums = shared_at<u32>(0);
#pragma unroll
        for (int row = 0; row < Rows; row++)
#pragma unroll
            for (int column = 0; column < Columns; column++)
                for (int e = 0; e < 4; e++) store_sum(sums, row, e / 2, column, e % 2, float_as_bits(y[row][column][e]));
        add_warps(sums);
    }
};

template <int Planes, int Rows, int Columns, bool Grouped>
DEVICE void binary_product(const ProductArguments& a) {
    const BinaryProduct<Planes, Rows, Columns, Grouped> product(a);
    const int worker = block_z() * product.warps + product.warp;
    const int first = worker_start(a, worker), end = worker_start(a, worker + 1), last = end < a.chunks ? end : a.chunks;
    prefetch_rows(a, product.tile0, Rows, Planes, first, last);
    wait_for_previous();
    if constexpr (Grouped) {
        product.run_grouped(first, last);
    } else {
        product.run_whole(first, last);
    }
}
