// Activations to integers: per token a scale, a zero point, sums, and codes as bit planes or bytes in fragment order.
// They are quantized as they are read (inputs.cuh), so that a norm or a gate is no launch of its own.
//
// One block takes one token, one warp 256 columns ("chunk") at a time. In a half chunk h lane 4 r + t reads the columns
// 128 h + 16 r + 4 t + c, c = 0..3, and makes a word of four bytes. Those words are the byte fragments already. A bit
// plane's word t of the half has column 16 r + 4 t + c at bit r + 8 c: mask the bytes, shift by r, OR over r.
// A block of the Hadamard transform (kernels/hadamard.py) never leaves its chunk: a warp has all of it in registers.
#include <inputs.cuh>

DEVICE bool is_finite(float v) { return (float_as_bits(v) & 0x7f800000u) != 0x7f800000u; }

struct Chunk {
    float v[2][4];  // a lane's columns of each half
};

DEVICE void sum_and_difference(float& first, float& second) {
    const float sum = add(first, second);
    second = add(first, -second);
    first = sum;
}

// The Hadamard transform of blocks of `block` columns, at least 2: pairs 1 and 2 columns apart are in one lane, those 4 to
// 64 apart in two, those 128 apart in two halves.
DEVICE void transform(Chunk& chunk, u32 lane, int block, float factor) {
    for (int h = 0; h < 2; h++) {
        float(&v)[4] = chunk.v[h];
        sum_and_difference(v[0], v[1]), sum_and_difference(v[2], v[3]);
        if (block > 2) sum_and_difference(v[0], v[2]), sum_and_difference(v[1], v[3]);
        for (u32 step = 1; step < 32 && static_cast<int>(4 * step) < block; step *= 2) {
            for (int c = 0; c < 4; c++) {
                const float other = shuffle_xor(v[c], step);
                v[c] = lane & step ? add(other, -v[c]) : add(v[c], other);
            }
        }
    }
    for (int c = 0; c < 4; c++) {
        if (block > 128) sum_and_difference(chunk.v[0][c], chunk.v[1][c]);
        for (int h = 0; h < 2; h++) chunk.v[h][c] = multiply(chunk.v[h][c], factor);
    }
}

// A chunk of a token as the grid is to see it; 0 beyond the last column. All lanes of a warp call it together.
template <int Type, int Kind>
DEVICE Chunk read_chunk(const QuantizeArguments& a, int token, int chunk, float factor) {
    const u32 lane = thread() % 32;
    Chunk read;
    for (int h = 0; h < 2; h++) {
        input_four<Type, Kind>(a.input, token, chunk * 256 + h * 128 + 4 * lane, factor, read.v[h]);
    }
    if (a.hadamard > 1) transform(read, lane, a.hadamard, a.shrinking);
    return read;
}

// low, high: the row's range, widened to hold 0; bad: whether it has NaN or infinity. Every thread gets the row's.
template <int Type, int Kind>
DEVICE void row_range(const QuantizeArguments& a, int token, float factor, float& low, float& high, int& bad) {
    const u32 lane = thread() % 32, warp = thread() / 32, warps = threads() / 32;
    Shared<float> lows = shared_at<float>(0), highs = shared_at<float>(128);
    Shared<int> bads = shared_at<int>(256);
    low = 0.0f, high = 0.0f, bad = 0;
    for (int chunk = warp; chunk < a.chunks; chunk += warps) {
        const Chunk read = read_chunk<Type, Kind>(a, token, chunk, factor);
        for (int i = 0; i < 8; i++) {
            const float v = read.v[i / 4][i % 4];
            bad |= !is_finite(v);
            low = v < low ? v : low;
            high = v > high ? v : high;
        }
    }
    widen_in_warp(low, high);
    for (u32 step = 16; step; step /= 2) bad |= shuffle_xor(bad, step);
    if (lane == 0) lows[warp] = low, highs[warp] = high, bads[warp] = bad;
    sync_block();
    for (u32 w = 0; w < warps; w++) {
        low = lows[w] < low ? lows[w] : low;
        high = highs[w] > high ? highs[w] : high;
        bad |= bads[w];
    }
}

template <int Type, int Kind>
DEVICE void quantize(const QuantizeArguments& a) {
    const int token = block_x();
    const u32 lane = thread() % 32, warp = thread() / 32, warps = threads() / 32, r = lane / 4, t = lane % 4;
    const bool is_padding = token >= a.input.m;
    const int k = a.input.k;
    Global<float> scale(a.scale);
    Global<int> zero(a.zero), sums(a.sums);
    if (token == 0) {
        Global<u32> counters(a.counters);
        for (int i = thread(); i < a.counter_count; i += threads()) store(counters, i, u32(0));
    }
    Shared<int> group_sums = shared_at<int>(384);
    for (int g = thread(); g < a.groups; g += threads()) group_sums[g] = 0;

    float low = 0.0f, high = 0.0f, factor = 0.0f;
    int bad = 0;
    if (!is_padding) {
        if constexpr (Kind == NORMED) factor = add_and_norm<Type>(a.input, token);
        row_range<Type, Kind>(a, token, factor, low, high, bad);
    }
    sync_block();
    if (bad) low = 0.0f, high = 0.0f;
    const Grid grid(multiply(low, a.clip), multiply(high, a.clip), a.bits);

    const u32 column_in_tile = (token % (8 / a.columns)) * a.columns;
    const long long column_tile = token / (8 / a.columns);
    for (int chunk = warp; chunk < a.chunks; chunk += warps) {
        u32 words[2] = {0, 0};
        Chunk read;
        if (!is_padding && !bad) read = read_chunk<Type, Kind>(a, token, chunk, factor);
        for (int h = 0; h < 2; h++) {
            const int column = chunk * 256 + h * 128 + 4 * lane;
            u32 four = 0;
            int sum = 0;
            if (!is_padding && !bad && column < k) {
                for (int c = 0; c < 4; c++) {
                    if (column + c >= k) continue;
                    const float code = grid.code(read.v[h][c]);
                    four |= static_cast<u32>(code) << 8 * c;
                    sum += static_cast<int>(code);
                }
            }
            sum += shuffle_xor(sum, 1);
            sum += shuffle_xor(sum, 2);
            sum += shuffle_xor(sum, 4);
            const int group = (chunk * 256 + h * 128 + 4 * lane) / a.group;
            if (lane % 8 == 0 && group < a.groups) add_shared(group_sums, group, sum);
            words[h] = four;
        }
        if (a.codes) {
            Global<u32> codes(a.codes);
            const long long base = (static_cast<long long>(token) * a.chunks + chunk) * 64 + t * 8 + r;
            store(codes, base, words[0]);
            store(codes, base + 32, words[1]);
        }
        if (a.planes) {
            u32 mine[2] = {0, 0};
            for (int i = 0; i < a.bits; i++) {
                for (int h = 0; h < 2; h++) {
                    u32 plane = ((words[h] >> i) & 0x01010101u) << r;
                    plane |= shuffle_xor(plane, 4);
                    plane |= shuffle_xor(plane, 8);
                    plane |= shuffle_xor(plane, 16);
                    if (static_cast<int>(r) == i) mine[h] = plane;
                }
            }
            if (static_cast<int>(r) < a.columns) {
                const Global<uint2> planes(reinterpret_cast<uint2*>(a.planes));
                uint2 pair;
                pair.x = mine[0], pair.y = mine[1];
                store(planes, (column_tile * a.chunks + chunk) * 32 + (column_in_tile + r) * 4 + t, pair);
            }
        }
    }
    sync_block();
    for (int g = thread(); g < a.groups; g += threads()) {
        store(sums, static_cast<long long>(token) * a.groups + g, static_cast<int>(group_sums[g]));
    }
    if (thread() == 0) {
        store(scale, token, bad ? bits_as_float(0x7fc00000u) : grid.step);
        store(zero, token, static_cast<int>(grid.offset));
    }
}
