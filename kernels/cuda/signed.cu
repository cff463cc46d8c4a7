// Kernels before and after cuBLASLt's INT8 product, for many tokens: codes as row-major signed bytes, and the epilogue.
//
// 8-bit codes are shifted by 128 to fit into int8. Activation columns past k are 0, so that padding adds nothing. The zero
// point correction accounts for both shifts and stays exact.
#include <epilogue.cuh>

struct RowsArguments {
    const uint4* weight;  // (tiles, chunks, planes, 32) in fragment order; null: activations
    const u32* codes;     // (padded m, chunks, 2, 4, 8) bytes of quantize.cu; null: a weight
    u32* out;             // (rows, 256 chunks) int8
    int chunks, planes;
    int count, k;  // rows and columns that hold codes; activations past them are 0
    int shift;
};

struct TotalsArguments {
    ProductArguments product;
    const int* sums;  // (rows, padded n): products of the shifted codes
    int k, act_shift, weight_shift;
};

// Unpack a weight: each warp writes 16 rows of one chunk of 256 columns.
DEVICE void weight_rows(const RowsArguments& a) {
    wait_for_previous();
    const u32 lane = thread() % 32, g = lane / 4, t = lane % 4;
    const int chunk = block_x() * (threads() / 32) + thread() / 32, tile = block_y();
    if (chunk >= a.chunks) return;
    const Global<const u32> weight(reinterpret_cast<const u32*>(a.weight));
    const Global<u32> out(a.out);
    for (int piece = 0; piece < 4; piece++) {
        u32 words[8];
        for (int j = 0; j < 8; j++) {
            words[j] = 0;
            const long long fragment = (static_cast<long long>(tile) * a.chunks + chunk) * a.planes + j;
            if (j < a.planes) words[j] = load_constant<u32>(weight, (fragment * 32 + lane) * 4 + piece);
        }
        const long long row = tile * 16 + 8 * (piece % 2) + g;
        for (u32 r = 0; r < 8; r++) {
            u32 four = 0;
            for (int j = 0; j < 8; j++) four |= ((words[j] >> r) & 0x01010101u) << j;
            if (a.shift) four ^= 0x80808080u;
            store(out, (row * a.chunks + chunk) * 64 + 32 * (piece / 2) + 4 * r + t, four);
        }
    }
}

// Reorder activations: each block writes one token.
DEVICE void token_rows(const RowsArguments& a) {
    wait_for_previous();
    const int token = block_x();
    const Global<const u32> codes(a.codes);
    const Global<u32> out(a.out);
    for (int i = thread(); i < a.chunks * 64; i += threads()) {
        u32 four = 0;
        if (token < a.count) {
            const int r = i % 32 / 4, t = i % 4;
            four = load<u32>(codes, (static_cast<long long>(token) * a.chunks * 2 + i / 32) * 32 + t * 8 + r);
            if (a.shift) four ^= 0x80808080u;
            for (int c = 0; c < 4; c++) {
                if (4 * i + c >= a.k) four &= ~(0xffu << 8 * c);
            }
        }
        store(out, static_cast<long long>(token) * a.chunks * 64 + i, four);
    }
}

// Epilogue: each thread turns one sum into one output.
DEVICE void finish_totals(const TotalsArguments& all) {
    wait_for_previous();
    const ProductArguments& a = all.product;
    const int row = block_x() * threads() + thread(), token = block_y();
    if (row >= a.n) return;
    RowTerms r = row_terms(a, row, 0);
    TokenTerms t = token_terms(a, token, 0);
    r.zero -= a.spacing * all.weight_shift;
    t.zero -= all.act_shift;
    t.sum -= all.act_shift * all.k;
    const int sum = load<int>(Global<const int>(all.sums), static_cast<long long>(token) * a.tiles * 16 + row);
    write_output(a, scaled(a, sum, r, t, token, row, 0), token, row);
}
