// Kernel arguments. kernels/cuda/launch.py and decode_attention.py declare the same structures, field by field.
#pragma once
#include <device.cuh>

enum ElementType { FLOAT32 = 0, FLOAT16 = 1, BFLOAT16 = 2 };

// How a kernel computes a token's values as it reads them (inputs.cuh).
enum InputKind { PLAIN = 0, GATED = 1, NORMED = 2 };

struct InputArguments {
    const void* x;      // rows `stride` elements apart. PLAIN: (m, k).  GATED: (m, 2 k), gate then up.  NORMED: (m, k), the
                        // residual stream, overwritten with x + added
    const void* added;  // NORMED: (m, k), or null
    const void* norm;   // NORMED: (k,), the RMSNorm weight
    long long stride;
    int vector;         // nonzero: every row is aligned to four elements
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
    u32* counters;      // (counter_count,), zeroed for the product that follows
    int chunks;         // of 256 columns
    int bits;
    int columns_log;    // log2 of a token's plane columns: its bits rounded up to 1, 2, 4 or 8
    int group, groups;  // group: columns that share a sum, a multiple of 32, or padded k
    int counter_count;
    int hadamard;       // block size of the Hadamard transform before quantization, a power of two up to 256; 1: none
    float clip;         // clipping factor on each token's range
    float shrinking;    // 1 / sqrt(hadamard)
};

struct ProductArguments {
    const uint4* weight;     // (row tiles, chunks, planes, 32 lanes) in fragment order
    const void* acts;        // the planes or codes that quantize.cu wrote
    const float* act_scale;  // (padded m,)
    const int* act_zero;     // (padded m,)
    const int* act_sums;     // (padded m, groups)
    const float* scale;      // (groups, padded n)
    const short* zero;       // (groups, padded n)
    const int* sums;         // (groups, padded n): sum of spacing code - zero
    const float* bias;       // (padded n,) or null
    void* out;               // (m, n) of `type`
    u32* partial;            // (splits, m, padded n) int32, float32 if grouped; null if splits is 1
    u32* counters;           // (grid x, grid y), zero at launch
    int* totals;             // (m, n, groups) or null: receives the exact integers, for tests
    int type;
    int m, n, tiles, chunks;  // tiles: of 16 rows; chunks: of 256 columns
    int columns_log;          // log2 of the plane columns of a token: 0 to 3
    int group, groups;        // group: columns per group
    int steps;                // half chunks of 128 columns, the last one possibly partial
    int unit, share, extra;   // K is divided in units of `unit` chunks (binary.cu) or steps (bytes.cu): each worker gets
                              // `share` units, the first `extra` workers one more
    int warps_n;              // bytes.cu: warps of a block along n
    int prefetch_bytes;       // bytes of each row tile to prefetch before `wait_for_previous`, a multiple of 16; 0: none
    int spacing;              // w = (spacing code - zero) scale; 2 allows zero points halfway between two levels
};

struct DequantizeArguments {
    const uint4* weight;
    const float* scale;
    const short* zero;
    void* out;  // (n, k) of `type`
    int type;
    int n, k, tiles, chunks, planes, group, spacing;
};

struct LookUpArguments {
    const uint4* weight;
    const float* scale;
    const short* zero;
    const long long* ids;  // (m,)
    void* out;             // (m, k) of `type`
    int type;
    int n, k, tiles, chunks, planes, group, spacing;
};

struct MaterializeArguments {
    InputArguments input;
    void* out;  // (m, k)
};

struct RotateArguments {
    void* qkv;                  // (heads + 2 kv_heads, d): queries, keys, values; queries are rotated in place
    const void* cos;            // (d,)
    const void* sin;            // (d,), first half negated
    void* keys;                 // KV cache, (kv_heads, capacity, d)
    void* values;               // same shape
    const long long* position;  // (1,)
    u32* counters;              // (heads,), zeroed for the attention that follows
    long long capacity;
    int heads, kv_heads, d;
    int kv_bits;                // fake-quantize cached keys and values to this many bits; 0: store them as they are
};

struct AttendArguments {
    const void* query;          // (heads, d)
    const void* keys;           // KV cache, (kv_heads, capacity, d)
    const void* values;         // same shape
    const long long* position;  // (1,), of the newest token
    float* partial;             // (heads, splits, d + 2), null if splits is 1: weighted values, softmax sum, max score
    u32* counters;              // (heads,), zero at launch
    void* out;                  // (heads, d)
    long long capacity;
    int heads, kv_heads, d;
    int window;                 // sliding-window size including the token itself; 0: full attention
    int slice;                  // positions per block
    float scale;                // factor on the scores
};

DEVICE void store_as(void* out, int type, long long i, float v) {
    if (type == FLOAT32) {
        store(Global<float>(static_cast<float*>(out)), i, v);
    } else {
        store(Global<u16>(static_cast<u16*>(out)), i, type == FLOAT16 ? to_half(v) : to_bfloat(v));
    }
}

// Whether this block is the last of `blocks` to call this with counter i (zero at launch); if so, it sees what the others
// stored before. Called by all threads of a block. Uses 4 bytes of shared memory.
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
