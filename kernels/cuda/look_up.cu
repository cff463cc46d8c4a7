// Dequantize rows of a packed weight by number, as an embedding does: float32, float16 or bfloat16 (m, k).
//
// One warp handles one chunk of 256 columns of one row. Lane 8 q + 4 h + t has the words of column group t in half h, and
// writes their columns of runs 2 q and 2 q + 1. A number that is no row gives NaN: the host cannot check it without a
// synchronization.
#include <arguments.cuh>

DEVICE void look_up(const LookUpArguments& a) {
    wait_for_previous();
    const u32 lane = thread() % 32, t = lane % 4, half = lane / 4 % 2, q = lane / 8;
    const int chunk = block_y() * (threads() / 32) + thread() / 32, token = block_x();
    if (chunk >= a.chunks) return;
    const long long row = load<long long>(Global<const long long>(a.ids), token);
    const bool exists = row >= 0 && row < a.n;
    const u32 inner = exists ? static_cast<u32>(row % 16) : 0, piece = inner / 8 + 2 * half;
    const Global<const u32> weight(reinterpret_cast<const u32*>(a.weight));
    u32 words[9];
    for (int j = 0; j < 9; j++) {
        words[j] = 0;
        const long long fragment = (row / 16 * a.chunks + chunk) * a.planes + j;
        if (exists && j < a.planes) {
            words[j] = load_constant<u32>(weight, (fragment * 32 + 4 * (inner % 8) + t) * 4 + piece);
        }
    }
    for (u32 r = 2 * q; r < 2 * q + 2; r++) {
        const int column = chunk * 256 + 128 * half + 16 * r + 4 * t;
        if (column >= a.k) continue;
        float scale = bits_as_float(0x7fc00000u);
        int zero = 0;
        if (exists) {
            const long long i = static_cast<long long>(column / a.group) * a.tiles * 16 + row;
            scale = load_constant<float>(Global<const float>(a.scale), i);
            zero = load_constant<short>(Global<const short>(a.zero), i);
        }
        for (int c = 0; c < 4 && column + c < a.k; c++) {
            int code = 0;
            for (int j = 0; j < 9; j++) code |= static_cast<int>((words[j] >> (r + 8 * c)) & 1u) << j;
            const float v = multiply(to_float(a.spacing * code - zero), scale);
            store_as(a.out, a.type, static_cast<long long>(token) * a.k + column + c, v);
        }
    }
}
