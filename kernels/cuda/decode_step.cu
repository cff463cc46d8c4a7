// The operations of a decode step between its linears: a norm or a gate written out, rotary embedding and KV cache update,
// attention over the cache. The position is read from device memory, so that one CUDA graph serves many positions.
#include <inputs.cuh>

// Write out a token's values as `quantize` would read them. NORMED: one block per token; GATED: several blocks share it.
template <int Type, int Kind>
DEVICE void materialize(const MaterializeArguments& a) {
    wait_for_previous();
    const int token = block_y(), k = a.input.k;
    float factor = 0.0f;
    if constexpr (Kind == NORMED) factor = add_and_norm<Type>(a.input, token);
    for (int column = 4 * (block_x() * threads() + thread()); column < k; column += 4 * threads() * blocks_x()) {
        float v[4];
        input_four<Type, Kind>(a.input, token, column, factor, v);
        write_four<Type>(a.out, static_cast<long long>(token) * k + column, k - column, a.input.vector, v);
    }
}

// Apply the rotary embedding, and write keys and values to the cache. One block per head of the queries, keys or values.
// Shared memory: d floats.
template <int Type>
DEVICE void rotate_and_cache(const RotateArguments& a) {
    wait_for_previous();
    typedef typename Element<Type>::One One;
    const int head_of_all = block_x(), half = a.d / 2;
    const u32 lane = thread() % 32;
    const bool is_query = head_of_all < a.heads, is_value = head_of_all >= a.heads + a.kv_heads;
    const Shared<float> rotated = shared_at<float>(0);
    if (head_of_all == 0) {
        for (int i = thread(); i < a.heads; i += threads()) store(Global<u32>(a.counters), i, u32(0));
    }
    const long long row = static_cast<long long>(head_of_all) * a.d;
    for (int i = thread(); i < half; i += threads()) {
        const float first = as_float<Type>(read<One, true>(a.qkv, row + i));
        const float second = as_float<Type>(read<One, true>(a.qkv, row + half + i));
        if (is_value) {
            rotated[i] = first, rotated[half + i] = second;
            continue;
        }
        for (int side = 0; side < 2; side++) {
            const int e = side * half + i;
            const float cos = as_float<Type>(read<One, false>(a.cos, e)), sin = as_float<Type>(read<One, false>(a.sin, e));
            const float mine = side ? second : first, other = side ? first : second;
            rotated[e] = rounded<Type>(add(rounded<Type>(multiply(mine, cos)), rounded<Type>(multiply(other, sin))));
        }
    }
    sync_block();
    Range range;
    for (int e = lane; a.kv_bits && e < a.d; e += 32) range.widen(rotated[e]);
    range.widen_in_warp();
    const Grid grid(range.low(), range.high(), a.kv_bits);
    const int head = head_of_all - a.heads - (is_value ? a.kv_heads : 0);
    const long long position = load<long long>(Global<const long long>(a.position), 0);
    const long long place = is_query ? row : (head * a.capacity + position) * a.d;
    void* to = is_query ? a.qkv : is_value ? a.values : a.keys;
    for (int e = thread(); e < a.d; e += threads()) {
        const float v = rotated[e];
        const float stored = a.kv_bits && !is_query ? grid.value(v) : v;
        store(Global<One>(static_cast<One*>(to)), place + e, as_element<Type>(stored));
    }
}

constexpr int kFours = 2;      // groups of 128 elements, four per lane: d is at most 256
constexpr int kPositions = 4;  // positions that a warp loads at once
constexpr float kNone = -3.4e38f;

// Partial softmax sums over some positions: rows of d weighted values, the sum of weights, the maximum score.
struct InShared {
    Shared<float> rows;
    DEVICE float at(long long i) const { return rows[i]; }
};
struct InGlobal {
    Global<float> rows;
    DEVICE float at(long long i) const { return load_fresh<float>(rows, i); }
};
struct Sums {
    float value, weight, largest;
};

// Merge the partial sums of `count` rows, starting at `row`, for element e.
template <class Rows>
DEVICE Sums merged(const Rows& rows, long long row, int count, int d, int e) {
    Sums all = {0.0f, 0.0f, kNone};
    for (int i = 0; i < count; i++) {
        const float largest = rows.at((row + i) * (d + 2) + d + 1);
        all.largest = largest > all.largest ? largest : all.largest;
    }
    for (int i = 0; i < count; i++) {
        const long long at = (row + i) * (d + 2);
        const float share = exponential(rows.at(at + d + 1) - all.largest);
        all.value += share * rows.at(at + e);
        all.weight += share * rows.at(at + d);
    }
    return all;
}

// Attention of one token with an online softmax. One block handles one head and one slice of the positions; its warps take
// kPositions at a time. The last block of a head to arrive merges the slices. Shared memory: d + 2 floats per warp.
template <int Type>
DEVICE void attend(const AttendArguments& a) {
    wait_for_previous();
    typedef typename Element<Type>::One One;
    const int head = block_x(), split = block_z(), splits = blocks_z();
    const int lane = thread() % 32, warp = thread() / 32, warps = threads() / 32;
    const long long base = head / (a.heads / a.kv_heads) * a.capacity * a.d, own = static_cast<long long>(head) * a.d;
    const int end = static_cast<int>(load<long long>(Global<const long long>(a.position), 0)) + 1;
    int first = split * a.slice, last = first + a.slice;
    if (a.window && end - a.window > first) first = end - a.window;
    if (end < last) last = end;

    float query[kFours][4], values[kFours][4], weight = 0.0f, largest = kNone;
    for (int f = 0; f < kFours; f++) {
        const int e = f * 128 + 4 * lane;
        read_four<Type, false>(a.query, own + e, a.d - e, true, query[f]);
        for (int c = 0; c < 4; c++) values[f][c] = 0.0f;
    }
    for (int start = first + warp * kPositions; start < last; start += warps * kPositions) {
        float scores[kPositions], held[kPositions][kFours][4];
        for (int n = 0; n < kPositions; n++) {
            scores[n] = 0.0f;
            for (int f = 0; f < kFours; f++) {
                const int e = f * 128 + 4 * lane, count = start + n < last ? a.d - e : 0;
                const long long i = base + static_cast<long long>(start + n) * a.d + e;
                float key[4];
                read_four<Type, false>(a.keys, i, count, true, key);
                read_four<Type, false>(a.values, i, count, true, held[n][f]);
                for (int c = 0; c < 4; c++) scores[n] += query[f][c] * key[c];
            }
        }
        for (u32 step = 16; step; step /= 2) {
            for (int n = 0; n < kPositions; n++) scores[n] += shuffle_xor(scores[n], step);
        }
        const float before = largest;
        for (int n = 0; n < kPositions; n++) {
            scores[n] *= a.scale;
            if (start + n < last && scores[n] > largest) largest = scores[n];
        }
        const float shrink = exponential(before - largest);
        weight *= shrink;
        for (int f = 0; f < kFours; f++) {
            for (int c = 0; c < 4; c++) values[f][c] *= shrink;
        }
        for (int n = 0; n < kPositions; n++) {
            if (start + n >= last) continue;
            const float share = exponential(scores[n] - largest);
            weight += share;
            for (int f = 0; f < kFours; f++) {
                for (int c = 0; c < 4; c++) values[f][c] += share * held[n][f][c];
            }
        }
    }
    const Shared<float> rows = shared_at<float>(16);
    for (int f = 0; f < kFours; f++) {
        const int e = f * 128 + 4 * lane;
        for (int c = 0; c < 4 && e + c < a.d; c++) rows[warp * (a.d + 2) + e + c] = values[f][c];
    }
    if (lane == 0) rows[warp * (a.d + 2) + a.d] = weight, rows[warp * (a.d + 2) + a.d + 1] = largest;
    sync_block();
    const Global<float> partial(a.partial);
    const long long slab = (static_cast<long long>(head) * splits + split) * (a.d + 2);
    for (int e = thread(); e < a.d; e += threads()) {
        const Sums all = merged(InShared{rows}, 0, warps, a.d, e);
        if (splits == 1) {
            store(Global<One>(static_cast<One*>(a.out)), own + e, as_element<Type>(divide(all.value, all.weight)));
        } else {
            store(partial, slab + e, all.value);
            if (e == 0) store(partial, slab + a.d, all.weight), store(partial, slab + a.d + 1, all.largest);
        }
    }
    if (splits == 1) return;
    if (!arrives_last(a.counters, head, splits)) return;
    for (int e = thread(); e < a.d; e += threads()) {
        const Sums all = merged(InGlobal{partial}, static_cast<long long>(head) * splits, splits, a.d, e);
        store(Global<One>(static_cast<One*>(a.out)), own + e, as_element<Type>(divide(all.value, all.weight)));
    }
}
