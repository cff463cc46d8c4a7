// The primitives of kernels/cuda/device.cuh for a host compiler, with the semantics they have on a GPU.
#pragma once
#include "emulator.h"
#include "fragments.h"

typedef uint32_t u32;
typedef uint16_t u16;
typedef uint8_t u8;

struct alignas(8) uint2 {
    u32 x, y;
};
struct alignas(16) uint4 {
    u32 x, y, z, w;
};

#define DEVICE inline
#define KERNEL(name, Arguments, threads, ...) \
    extern "C" void name(const void* raw) {           \
        allow_next_launch();                          \
        __VA_ARGS__(*static_cast<const Arguments*>(raw)); \
    }

inline u32 thread() { return emulator::state.current; }
inline u32 threads() { return emulator::state.threads; }
inline u32 block_x() { return emulator::state.block[0]; }
inline u32 block_y() { return emulator::state.block[1]; }
inline u32 block_z() { return emulator::state.block[2]; }
inline u32 blocks_x() { return emulator::state.grid[0]; }
inline u32 blocks_z() { return emulator::state.grid[2]; }

template <class T>
struct Global {
    T* pointer;
    emulator::Buffer* buffer;
    explicit Global(T* p) : pointer(p), buffer(emulator::buffer_of(p)) {}
    template <class U>
    Global(const Global<U>& other) : pointer(other.pointer), buffer(other.buffer) {}

    T* at(long long i, bool writes) const {
        if (!emulator::state.fibres[emulator::state.current].waited) emulator::fail("memory is used before earlier launches are waited for");
        return within(i, sizeof(T), writes);
    }
    T* within(long long i, size_t bytes, bool writes) const {
        if (buffer == nullptr) emulator::fail("an access through a pointer to no buffer");
        const auto address = reinterpret_cast<uintptr_t>(pointer) + i * static_cast<long long>(sizeof(T));
        if (address < buffer->base || address + bytes > buffer->base + buffer->size) {
            emulator::fail("element " + std::to_string(i) + " of " + std::to_string(bytes) + " bytes is outside its buffer of " +
                           std::to_string(buffer->size) + " bytes");
        }
        if (address % sizeof(T)) emulator::fail("an access of " + std::to_string(sizeof(T)) + " bytes out of alignment");
        if (writes) buffer->written = true;
        return reinterpret_cast<T*>(address);
    }
};

template <class T>
T load(Global<const T> p, long long i) {
    const T* at = p.at(i, false);
    if (p.buffer->written) emulator::fail("a load of a buffer that this launch has written");
    return *at;
}
inline uint2 load_if(bool enabled, Global<const uint2> p, long long i) { return enabled ? load<uint2>(p, i) : uint2(); }
template <class T>
T load_constant(Global<const T> p, long long i) {
    const T v = load<T>(p, i);
    if (p.buffer->changed) emulator::fail("a read-only load of a buffer that an earlier launch has written");
    return v;
}
inline uint4 load_once_if(bool enabled, Global<const uint4> p, long long i) { return enabled ? load_constant<uint4>(p, i) : uint4(); }
template <class T>
T load_fresh(Global<T> p, long long i) {
    return *p.at(i, false);
}
template <class T>
void store(Global<T> p, long long i, T v) {
    *p.at(i, true) = v;
}
inline u32 add_global(Global<u32> p, long long i, u32 v) {
    u32* at = p.at(i, true);
    const u32 before = *at;
    *at += v;
    return before;
}

template <class T>
struct Shared {
    u32 offset;  // in bytes

    struct Element {
        u32 offset;
        operator T() const {
            for (u32 byte = 0; byte < sizeof(T); byte += 4) watch(offset + byte, false);
            T v;
            memcpy(&v, emulator::state.shared.data() + offset, sizeof(T));
            return v;
        }
        void operator=(const T& v) const {
            for (u32 byte = 0; byte < sizeof(T); byte += 4) watch(offset + byte, true);
            memcpy(emulator::state.shared.data() + offset, &v, sizeof(T));
        }
    };

    Shared operator+(long long i) const { return {static_cast<u32>(offset + i * static_cast<long long>(sizeof(T)))}; }
    Element operator[](long long i) const { return {check(i)}; }

    u32 check(long long i) const {
        const long long at = offset + i * static_cast<long long>(sizeof(T));
        if (at < 0 || at + sizeof(T) > emulator::state.shared.size()) {
            emulator::fail("byte " + std::to_string(at) + " of " + std::to_string(emulator::state.shared.size()) + " of shared memory");
        }
        if (at % sizeof(T)) emulator::fail("a shared access out of alignment");
        return static_cast<u32>(at);
    }

    static void watch(u32 at, bool writes) {
        emulator::Word& word = emulator::state.words[at / 4];
        const long epoch = emulator::state.epoch;
        const int self = emulator::state.current;
        if (word.in_flight) emulator::fail("shared memory is used before a copy to it was waited for");
        if (word.atomic_epoch == epoch) emulator::fail("a race with an atomic in shared memory");
        if (word.write_epoch == epoch && word.writer != self) emulator::fail("a race in shared memory: no barrier after a write");
        if (writes) {
            if (word.read_epoch == epoch && (word.read_by_many || word.reader != self))
                emulator::fail("a race in shared memory: a write where others read");
            word.writer = self;
            word.write_epoch = epoch;
        } else {
            word.read_by_many = word.read_epoch == epoch && (word.read_by_many || word.reader != self);
            word.reader = self;
            word.read_epoch = epoch;
        }
    }
};

template <class T>
Shared<T> shared_at(u32 offset) {
    return {offset};
}

inline void add_shared(Shared<int> p, u32 i, int v) {
    const u32 at = p.check(i);
    emulator::Word& word = emulator::state.words[at / 4];
    const long epoch = emulator::state.epoch;
    if (word.in_flight || word.write_epoch == epoch || word.read_epoch == epoch) emulator::fail("a race with an atomic in shared memory");
    word.atomic_epoch = epoch;
    int sum;
    memcpy(&sum, emulator::state.shared.data() + at, 4);
    sum += v;
    memcpy(emulator::state.shared.data() + at, &sum, 4);
}

inline void allow_next_launch() {}
inline void wait_for_previous() { emulator::state.fibres[emulator::state.current].waited = true; }
template <class T>
void prefetch(Global<const T> p, long long i, u32 bytes) {
    if (bytes % 16 || bytes == 0) emulator::fail("a prefetch of " + std::to_string(bytes) + " bytes");
    if (reinterpret_cast<uintptr_t>(p.within(i, bytes, false)) % 16) emulator::fail("a prefetch out of alignment");
}

inline void sync_block() { emulator::wait_as(emulator::AT_BARRIER); }
inline void fence() {}

inline void copy_async(Shared<uint4> to, u32 i, Global<const uint4> from, long long j) {
    const u32 at = to.check(i);
    for (u32 byte = 0; byte < 16; byte += 4) {
        Shared<u32>::watch(at + byte, true);
        emulator::state.words[(at + byte) / 4].in_flight = true;
    }
    if (from.buffer != nullptr && from.buffer->written) emulator::fail("a copy from a buffer that this launch has written");
    emulator::state.fibres[emulator::state.current].copies.back().push_back({at, reinterpret_cast<uintptr_t>(from.at(j, false))});
}
inline void commit_copies() { emulator::state.fibres[emulator::state.current].copies.emplace_back(); }
// The data of an asynchronous copy arrives here and no earlier.
template <int Pending>
void wait_copies() {
    auto& groups = emulator::state.fibres[emulator::state.current].copies;
    while (groups.size() > Pending + 1) {  // the last one is open
        for (const emulator::Copy& copy : groups.front()) {
            for (u32 byte = 0; byte < 16; byte += 4) {
                emulator::state.words[(copy.to + byte) / 4].in_flight = false;
                Shared<u32>::watch(copy.to + byte, true);
            }
            memcpy(emulator::state.shared.data() + copy.to, reinterpret_cast<const void*>(copy.from), 16);
        }
        groups.erase(groups.begin());
    }
}

namespace emulator {

inline u32* collective(Collective collective, u32 parameter, std::initializer_list<u32> in) {
    Fibre& self = state.fibres[state.current];
    self.collective = collective;
    self.parameter = parameter;
    std::copy(in.begin(), in.end(), self.in);
    wait_as(AT_COLLECTIVE);
    return state.fibres[state.current].out;
}

// in: the registers of A, B and C. Assembles the matrices from the fragment tables, multiplies, and distributes C.
template <int K, int Bits, int ARegisters, int BRegisters>
void multiply(Fibre* lanes, Position (*a_at)(int, int), Position (*b_at)(int, int)) {
    constexpr int kPer = 32 / Bits;  // elements of a register
    static u8 a[16][K], b[8][K];
    for (int lane = 0; lane < 32; lane++) {
        const u32 mask = Bits == 1 ? 1u : 0xffu;
        for (int i = 0; i < ARegisters * kPer; i++) {
            const Position at = a_at(lane, i);
            a[at.row][at.column] = lanes[lane].in[i / kPer] >> (i % kPer * Bits) & mask;
        }
        for (int i = 0; i < BRegisters * kPer; i++) {
            const Position at = b_at(lane, i);
            b[at.column][at.row] = lanes[lane].in[ARegisters + i / kPer] >> (i % kPer * Bits) & mask;
        }
    }
    for (int lane = 0; lane < 32; lane++) {
        for (int i = 0; i < 4; i++) {
            const Position at = c_s32(lane, i);
            u32 sum = lanes[lane].in[ARegisters + BRegisters + i];
            for (int k = 0; k < K; k++) sum += u32(a[at.row][k]) * b[at.column][k];
            lanes[lane].out[i] = sum;
        }
    }
}

inline void execute_collective(int warp) {
    Fibre* lanes = &state.fibres[warp * 32];
    for (int lane = 0; lane < 32; lane++) {
        if (lanes[lane].collective != lanes[0].collective || lanes[lane].parameter != lanes[0].parameter)
            fail("lanes of warp " + std::to_string(warp) + " reach different collectives");
    }
    switch (lanes[0].collective) {
        case SHUFFLE:
            for (u32 lane = 0; lane < 32; lane++) lanes[lane].out[0] = lanes[lane ^ lanes[0].parameter].in[0];
            break;
        case LARGEST:
        case SUM: {
            int largest = static_cast<int>(lanes[0].in[0]);
            u32 sum = 0;
            for (int lane = 0; lane < 32; lane++) {
                largest = std::max(largest, static_cast<int>(lanes[lane].in[0]));
                sum += lanes[lane].in[0];
            }
            for (int lane = 0; lane < 32; lane++) lanes[lane].out[0] = lanes[0].collective == SUM ? sum : static_cast<u32>(largest);
            break;
        }
        case MMA_B1_K256: multiply<256, 1, 4, 2>(lanes, a_b1_k256, b_b1_k256); break;
        case MMA_B1_K128: multiply<128, 1, 2, 1>(lanes, a_b1_k128, b_b1_k128); break;
        case MMA_U8_K32: multiply<32, 8, 4, 2>(lanes, a_u8_k32, b_u8_k32); break;
    }
}

inline void distribute(int (&c)[4], const u32* out) {
    for (int i = 0; i < 4; i++) c[i] = static_cast<int>(out[i]);
}

}  // namespace emulator

template <class T>
T shuffle_xor(T v, u32 lanes) {
    static_assert(sizeof(T) == 4);
    u32 bits;
    memcpy(&bits, &v, 4);
    bits = *emulator::collective(emulator::SHUFFLE, lanes, {bits});
    memcpy(&v, &bits, 4);
    return v;
}
inline int sum_in_warp(int v) { return static_cast<int>(*emulator::collective(emulator::SUM, 0, {static_cast<u32>(v)})); }
inline int largest_in_warp(int v) { return static_cast<int>(*emulator::collective(emulator::LARGEST, 0, {static_cast<u32>(v)})); }
inline void mma_b1(int (&c)[4], const uint4& a, const uint2& b) {
    emulator::distribute(c, emulator::collective(emulator::MMA_B1_K256, 0, {a.x, a.y, a.z, a.w, b.x, b.y, u32(c[0]), u32(c[1]), u32(c[2]), u32(c[3])}));
}
inline void mma_b1_half(int (&c)[4], u32 a0, u32 a1, u32 b) {
    emulator::distribute(c, emulator::collective(emulator::MMA_B1_K128, 0, {a0, a1, b, u32(c[0]), u32(c[1]), u32(c[2]), u32(c[3])}));
}
inline void mma_u8(int (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    emulator::distribute(c, emulator::collective(emulator::MMA_U8_K32, 0, {a[0], a[1], a[2], a[3], b0, b1, u32(c[0]), u32(c[1]), u32(c[2]), u32(c[3])}));
}

inline float multiply(float a, float b) { return a * b; }
inline float add(float a, float b) { return a + b; }
inline float fused_multiply_add(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline float divide(float a, float b) { return a / b; }
inline float square_root(float a) { return __builtin_sqrtf(a); }
inline float exponential(float a) { return __builtin_expf(a); }
inline float to_float(int a) { return static_cast<float>(a); }
inline float round_even(float a) { return __builtin_rintf(a); }
inline float bits_as_float(u32 a) {
    float f;
    memcpy(&f, &a, 4);
    return f;
}
inline u32 float_as_bits(float a) {
    u32 u;
    memcpy(&u, &a, 4);
    return u;
}

// Conversions round to nearest even; overflow becomes infinity; NaN loses its payload.
inline u16 to_half(float a) {
    const u32 bits = float_as_bits(a), sign = bits >> 16 & 0x8000u;
    const u32 size = bits & 0x7fffffffu;
    if (size > 0x7f800000u) return 0x7fff;
    if (size >= 0x47800000u) return u16(sign | 0x7c00u);
    if (size < 0x38800000u) {  // denormal: adding 0.5 aligns its last bit, 2^-24, with the float's last bit
        return u16(sign | (float_as_bits(bits_as_float(size) + 0.5f) - 0x3f000000u));
    }
    return u16(sign | ((size - 0x38000000u + 0xfffu + (size >> 13 & 1u)) >> 13));
}
inline u16 to_bfloat(float a) {
    const u32 bits = float_as_bits(a);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
    return u16((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}
inline float from_half(u16 h) {
    const u32 sign = u32(h & 0x8000) << 16, exponent = h >> 10 & 0x1f, fraction = h & 0x3ff;
    if (exponent == 0) {
        const float size = static_cast<float>(fraction) * (1.0f / 16777216.0f);
        return sign ? -size : size;
    }
    const u32 wide = exponent == 31 ? 255 : exponent + 112;
    return bits_as_float(sign | wide << 23 | fraction << 13);
}
inline float from_bfloat(u16 h) { return bits_as_float(u32(h) << 16); }

// Exposes the fragment tables to their test: matrix 0 is A of m16n8k256, 1 its B, 2 and 3 of m16n8k128, 4 and 5 of m16n8k32, 6 is C.
extern "C" void emulator_position(int matrix, int lane, int i, int* row, int* column) {
    Position (*const tables[])(int, int) = {a_b1_k256, b_b1_k256, a_b1_k128, b_b1_k128, a_u8_k32, b_u8_k32, c_s32};
    const Position at = tables[matrix](lane, i);
    *row = at.row, *column = at.column;
}
extern "C" u16 emulator_to_half(float a) { return to_half(a); }
extern "C" u16 emulator_to_bfloat(float a) { return to_bfloat(a); }
extern "C" float emulator_from_half(u16 a) { return from_half(a); }
