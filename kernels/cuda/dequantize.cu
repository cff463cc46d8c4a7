// Dequantize a packed weight to float32, float16 or bfloat16 (n, k), for products with activations in full precision.
//
// One warp handles 16 rows of one chunk of 256 columns; each lane has 32 columns of each of its four fragment words.
#include <arguments.cuh>

DEVICE void dequantize(const DequantizeArguments& a) {
    wait_for_previous();
    const u32 lane = thread() % 32, g = lane / 4, t = lane % 4;
    const int chunk = block_x() * (threads() / 32) + thread() / 32, tile = block_y();
    if (chunk >= a.chunks) return;
    const Global<const u32> weight(reinterpret_cast<const u32*>(a.weight));
    const Global<const float> scales(a.scale);
    const Global<const short> zeros(a.zero);
    for (int piece = 0; piece < 4; piece++) {
        const int row = tile * 16 + 8 * (piece % 2) + g;
        if (row >= a.n) continue;
        u32 words[9];
        for (int j = 0; j < 9; j++) {
            words[j] = 0;
            const long long fragment = (static_cast<long long>(tile) * a.chunks + chunk) * a.planes + j;
            if (j < a.planes) words[j] = load_constant<u32>(weight, (fragment * 32 + lane) * 4 + piece);
        }
        for (int r = 0; r < 8; r++) {
            const int column = chunk * 256 + 128 * (piece / 2) + 16 * r + 4 * t;
            if (column >= a.k) continue;
            const long long i = static_cast<long long>(column / a.group) * a.tiles * 16 + row;
            const float scale = load_constant<float>(scales, i);
            const int zero = load_constant<short>(zeros, i);
            for (int c = 0; c < 4 && column + c < a.k; c++) {
                int code = 0;
                for (int j = 0; j < 9; j++) code |= static_cast<int>((words[j] >> (r + 8 * c)) & 1u) << j;
                const float v = multiply(to_float(a.spacing * code - zero), scale);
                store_as(a.out, a.type, static_cast<long long>(row) * a.k + column + c, v);
            }
        }
    }
}
