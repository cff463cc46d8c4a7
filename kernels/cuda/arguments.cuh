// What a launch hands over. kernels/cuda/launch.py has the same structures, field by field.
#pragma once
#include <device.cuh>

enum ElementType { FLOAT32 = 0, FLOAT16 = 1, BFLOAT16 = 2 };

// What a token's values are made of.
enum InputKind { PLAIN = 0, GATED = 1, NORMED = 2 };

struct InputArguments {
    const void* x;      // rows `stride` elements apart. PLAIN: (m, k).  GATED: (m, 2 k), gate and up.  NORMED: (m, k),
                        // the residual stream, which becomes x + added
    const void* added;  // NORMED: (m, k), or null
    const void* norm;   // NORMED: (k,), the norm's weight
    long long stride;
    int vector;         // all rows start on multiples of four elements' bytes
    int m, k;
    float epsilon;
};

struct QuantizeArguments {
    InputArguments input;
    u32* planes;        // bit planes in fragment order (quantize.cu), or null
    u32* codes;         // bytes in fragment order (quantize.cu), or null
    float* scale;       // (padded m,)
    int* zero;          // (padded m,)
    int* sums;          // (padded m, groups)
    u32* counters;      // (counter_count,), set to 0 for the product that follows
    int chunks;         // of 256 columns
    int bits;
    int columns_log;    // of a token's plane columns, which are its bits rounded up to 1, 2, 4 or 8
    int group, groups;  // group: columns that share a sum, a multiple of 32, or k padded
    int counter_count;
    int hadamard;       // columns of a block of the transform before the grid, a power of two up to 256; 1 for none
    float clip;         // factor on the range of each token
    float shrinking;    // 1 / sqrt(hadamard)
};

struct ProductArguments {
    const uint4* weight;     // (row tiles, chunks, planes, 32 lanes) in fragment order
    const void* acts;        // the planes or codes of quantize.cu
    const float* act_scale;  // (padded m,)
    const int* act_zero;     // (padded m,)
    const int* act_sums;     // (padded m, groups)
    const float* scale;      // (groups, padded n)
    const short* zero;       // (groups, padded n)
    const int* sums;         // (groups, padded n): sum of spacing code - zero
    const float* bias;       // (padded n,) or null
    void* out;               // (m, n) of `type`
    u32* partial;            // (splits, m, padded n) int32, or float32 where grouped; null where splits is 1
    u32* counters;           // (grid x, grid y), 0
    int* totals;             // (m, n, groups) or null: the exact integers, for checks
    int type;
    int m, n, tiles, chunks;  // tiles: of 16 rows; chunks: of 256 columns
    int columns_log;          // of the plane columns of a token: 0 to 3
    int group, groups;        // columns of a group
    int steps;                // of 128 columns that hold any
    int unit, share, extra;   // columns are shared out in units of so many chunks (binary.cu) or steps (bytes.cu):
                              // a worker takes `share` of them, the first `extra` workers one more
    int warps_n;              // bytes.cu: warps side by side along n
    int ahead;                // bytes of a row tile that a warp asks for before it waits, a multiple of 16; 0 for none
    int spacing;              // w = (spacing code - zero) scale: 2 where zero points may lie halfway between two levels
};

struct DequantizeArguments {
    const uint4* weight;
    const float* scale;
    const short* zero;
    void* out;  // (n, k) of `type`
    int type;
    int n, k, tiles, chunks, planes, group, spacing;
};

struct ResolveArguments {
    InputArguments input;
    void* out;  // (m, k)
};

struct KeepArguments {
    void* parts;                // (heads + 2 kv_heads, d): queries, keys, values; queries are rotated in place
    const void* cos;            // (d,)
    const void* sin;            // (d,), its first half negative
    void* keys;                 // (kv_heads, capacity, d)
    void* values;               // the same
    const long long* position;  // (1,)
    u32* counters;              // (heads,), set to 0 for the attention that follows
    long long capacity;
    int heads, kv_heads, d;
    int bits;                   // that keys and values are rounded to, or 0
};

struct AttendArguments {
    const void* query;          // (heads, d)
    const void* keys;           // (kv_heads, capacity, d)
    const void* values;         // the same
    const long long* position;  // (1,), of the last token that is seen
    float* partial;             // (heads, splits, d + 2), null where splits is 1: weighted values, their weight, the largest score
    u32* counters;              // (heads,), 0
    void* out;                  // (heads, d)
    long long capacity;
    int heads, kv_heads, d;
    int window;                 // positions that a token sees, or 0 for all
    int slice;                  // positions of a block
    float scale;
};

DEVICE void store_as(void* out, int type, long long i, float v) {
    if (type == FLOAT32) {
        store(Global<float>(static_cast<float*>(out)), i, v);
    } else {
        store(Global<u16>(static_cast<u16*>(out)), i, type == FLOAT16 ? to_half(v) : to_bfloat(v));
    }
}

// Whether this block is the last of `blocks` to come here with counter i, which was 0: it then sees what the others have
// stored. For all threads of a block at once. Takes 4 bytes of shared memory.
DEVICE bool arrives_last(u32* counters, long long i, u32 blocks) {
    const Shared<u32> ticket = shared_at<u32>(0);
    fence();
    sync_block();
    if (thread() == 0) ticket[0] = add_global(Global<u32>(counters), i, 1);
    sync_block();
    const bool is_last = ticket[0] == blocks - 1;
    fence();
    return is_last;
}
