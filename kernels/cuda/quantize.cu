// Quantize activations per token: a scale, a zero point, sums of codes, and codes as bit planes or bytes in fragment order.
// A norm or a gate is fused into the read (inputs.cuh), which saves a launch.
//
// One block handles one token; each warp handles one chunk of 256 columns at a time. In half chunk h, lane 4 r + t reads
// columns 128 h + 16 r + 4 t + c, c = 0..3, and packs their codes into a word of four bytes. These words already are the
// byte fragments. Word t of a bit plane has column 16 r + 4 t + c at bit r + 8 c: a bit transpose over eight lanes.
// A block of the Hadamard transform (kernels/hadamard.py) lies within one chunk, so one warp holds it in registers.
#include <inputs.cuh>

struct Chunk {
    float v[2][4];  // the lane's four columns in each half
};

// Bit-transpose the words of the eight lanes with equal t: in each byte, bit i of lane r is exchanged with bit r of lane i.
DEVICE u32 transpose(u32 word, u32 r) {
    const u32 masks[3] = {0x55555555u, 0x33333333u, 0x0f0f0f0fu};
#pragma unroll
    for (int level = 0; level < 3; level++) {
        const u32 gap = 1 << level, mask = masks[level], other = shuffle_xor(word, 4 * gap);
        word = r & gap ? (word & ~mask) | ((other >> gap) & mask) : (word & mask) | ((other & mask) << gap);
    }
    return word;
}

DEVICE void sum_and_difference(float& first, float& second) {
    const float sum = add(first, second);
    second = add(first, -second);
    first = sum;
}

// Hadamard transform in blocks of `block` columns (at least 2). Butterfly partners 1 and 2 columns apart are in one lane,
// those 4 to 64 apart in two lanes, those 128 apart in the two halves.
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

// Read and transform a chunk of a token for quantization; 0 past the last column. Called by all lanes of a warp.
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

// The token's range, returned to every thread. last: receives the warp's last chunk, which for most warps is its only one,
// so that it is not read twice.
template <int Type, int Kind>
DEVICE Range row_range(const QuantizeArguments& a, int token, float factor, Chunk& last) {
    const u32 lane = thread() % 32, warp = thread() / 32, warps = threads() / 32;
    Shared<int> below = shared_at<int>(0), above = shared_at<int>(128);
    Range range;
    for (int chunk = warp; chunk < a.chunks; chunk += warps) {
        last = read_chunk<Type, Kind>(a, token, chunk, factor);
        for (int i = 0; i < 8; i++) range.widen(last.v[i / 4][i % 4]);
    }
    range.widen_in_warp();
    if (lane == 0) below[warp] = range.below, above[warp] = range.above;
    sync_block();
    if (lane < warps) range.below = below[lane], range.above = above[lane];
    range.widen_in_warp();
    return range;
}

// Add a lane's sums over the two halves of a chunk to the sums of their groups.
DEVICE void add_sums(const QuantizeArguments& a, Shared<int> group_sums, int chunk, const int (&of)[2]) {
    const u32 lane = thread() % 32;
    if (a.group % 256 == 0) {
        const int sum = sum_in_warp(of[0] + of[1]);
        if (lane == 0) add_shared(group_sums, chunk * 256 / a.group, sum);
        return;
    }
    for (int h = 0; h < 2; h++) {
        int sum = of[h];
        for (u32 step = 1; step < 8; step *= 2) sum += shuffle_xor(sum, step);
        const int group = (chunk * 256 + h * 128 + 4 * lane) / a.group;
        if (lane % 8 == 0 && group < a.groups) add_shared(group_sums, group, sum);
    }
}

template <int Type, int Kind>
DEVICE void quantize(const QuantizeArguments& a) {
    wait_for_previous();
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

    float factor = 0.0f;
    Range range;
    Chunk last = {};
    if (!is_padding) {
        if constexpr (Kind == NORMED) factor = add_and_norm<Type>(a.input, token);
        range = row_range<Type, Kind>(a, token, factor, last);
    }
    sync_block();
    const bool not_finite = !range.is_finite();
    if (not_finite) range = Range();
    const Grid grid(multiply(range.low(), a.clip), multiply(range.high(), a.clip), a.bits);
    const int codes_end = is_padding || not_finite ? 0 : k;

    const u32 column_in_tile = (token << a.columns_log) % 8;
    const long long column_tile = (token << a.columns_log) / 8;
    for (int chunk = warp; chunk < a.chunks; chunk += warps) {
        u32 words[2] = {0, 0};
        Chunk read = last;
        if (chunk + warps < a.chunks && codes_end) read = read_chunk<Type, Kind>(a, token, chunk, factor);
        int sums_of[2] = {0, 0};
        for (int h = 0; h < 2; h++) {
            const int column = chunk * 256 + h * 128 + 4 * lane;
            for (int c = 0; c < 4; c++) {
                const u32 code = column + c < codes_end ? static_cast<u32>(grid.code(read.v[h][c])) : 0;
                words[h] |= code << 8 * c;
                sums_of[h] += static_cast<int>(code);
            }
        }
        add_sums(a, group_sums, chunk, sums_of);
        if (a.codes) {
            Global<u32> codes(a.codes);
            const long long base = (static_cast<long long>(token) * a.chunks + chunk) * 64 + t * 8 + r;
            store(codes, base, words[0]);
            store(codes, base + 32, words[1]);
        }
        if (a.planes) {
            uint2 pair;
            pair.x = transpose(words[0], r), pair.y = transpose(words[1], r);
            if (r >> a.columns_log == 0) {
                const Global<uint2> planes(reinterpret_cast<uint2*>(a.planes));
                store(planes, (column_tile * a.chunks + chunk) * 32 + (column_in_tile + r) * 4 + t, pair);
            }
        }
    }
    sync_block();
    for (int g = thread(); g < a.groups; g += threads()) {
        store(sums, static_cast<long long>(token) * a.groups + g, static_cast<int>(group_sums[g]));
    }
    if (thread() == 0) {
        store(scale, token, not_finite ? bits_as_float(0x7fc00000u) : grid.step.by);
        store(zero, token, static_cast<int>(grid.offset));
    }
}
