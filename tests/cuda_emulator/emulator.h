// Runs a CUDA block on one CPU thread: one fibre per CUDA thread, warps in lockstep at collectives, checked memory.
//
// A lane runs until it reaches a shuffle, an mma or a barrier. Once all 32 lanes of its warp wait at the same collective,
// the emulator executes it; a barrier opens once all threads of the block wait there. The launch fails with an error for
// - a missing lane, or lanes of a warp at different collectives;
// - accesses out of bounds or out of alignment;
// - reads of an asynchronous copy that was not waited for;
// - data races in shared memory: two threads access a word between the same barriers and one of them writes;
// - read-only loads of memory that this launch or an earlier one wrote;
// - any access by a thread that has not waited for earlier launches.
#pragma once
#include <algorithm>
#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <ucontext.h>
#include <vector>

namespace emulator {

enum Wait { RUNNING, AT_COLLECTIVE, AT_BARRIER, DONE };
enum Collective { SHUFFLE, LARGEST, SUM, MMA_B1_K256, MMA_B1_K128, MMA_U8_K32 };

struct Buffer {
    uintptr_t base = 0, size = 0;
    bool written = false;  // by this launch
    bool changed = false;  // by an earlier launch
};

struct Copy {
    uint32_t to;
    uintptr_t from;
};

struct Fibre {
    ucontext_t start;
    jmp_buf at;
    bool started, waited;
    Wait wait;
    Collective collective;
    uint32_t parameter;
    uint32_t in[10], out[4];
    std::vector<std::vector<Copy>> copies;  // committed groups, oldest first, then the open one
};

struct Word {
    int writer = -1, reader = -1;
    long write_epoch = -1, read_epoch = -1, atomic_epoch = -1;
    bool read_by_many = false, in_flight = false;
};

constexpr size_t kStack = 96 * 1024;
constexpr size_t kMaximumShared = 48 * 1024;  // available on every device without opting in

struct State {
    std::map<uintptr_t, Buffer> buffers;
    std::vector<Fibre> fibres;
    std::vector<uint8_t> shared;
    std::vector<Word> words;
    jmp_buf scheduler;
    int current = -1, threads = 0;
    uint32_t block[3], grid[3];
    long epoch = 0;
    std::string error;
    void (*kernel)(const void*) = nullptr;
    const void* arguments = nullptr;
};
inline State state;

[[noreturn]] inline void leave() { _longjmp(state.scheduler, 1); }

[[noreturn]] inline void fail(const std::string& what) {
    if (state.error.empty()) {
        state.error = what + " (block " + std::to_string(state.block[0]) + "," + std::to_string(state.block[1]) + "," +
                      std::to_string(state.block[2]) + ", thread " + std::to_string(state.current) + ")";
    }
    if (state.current >= 0) leave();
    throw state.error;
}

inline void wait_as(Wait wait) {
    Fibre& self = state.fibres[state.current];
    self.wait = wait;
    if (_setjmp(self.at) == 0) leave();
}

inline Buffer* buffer_of(const void* pointer) {
    const auto address = reinterpret_cast<uintptr_t>(pointer);
    auto after = state.buffers.upper_bound(address);
    if (after == state.buffers.begin()) return nullptr;
    Buffer& buffer = std::prev(after)->second;
    return address < buffer.base + buffer.size ? &buffer : nullptr;
}

inline void entry() {
    state.kernel(state.arguments);
    state.fibres[state.current].wait = DONE;
    leave();
}

void execute_collective(int warp);  // device.cuh

inline void run_lane(int thread) {
    state.current = thread;
    Fibre& fibre = state.fibres[thread];
    fibre.wait = RUNNING;
    if (_setjmp(state.scheduler) == 0) {
        if (!fibre.started) {
            fibre.started = true;
            setcontext(&fibre.start);
        }
        _longjmp(fibre.at, 1);
    }
    state.current = -1;
    if (!state.error.empty()) throw state.error;
}

// Run a warp until all of its lanes wait at the block's barrier or are done.
inline void run_warp(int warp, bool backwards) {
    for (;;) {
        int waiting[4] = {};
        for (int i = 0; i < 32; i++) {
            const int thread = warp * 32 + (backwards ? 31 - i : i);
            Fibre& fibre = state.fibres[thread];
            if (fibre.wait == RUNNING) run_lane(thread);
            waiting[fibre.wait]++;
        }
        if (waiting[AT_COLLECTIVE] == 0) return;
        if (waiting[AT_COLLECTIVE] != 32) fail("warp " + std::to_string(warp) + " is divergent at a collective");
        execute_collective(warp);
        for (int i = 0; i < 32; i++) state.fibres[warp * 32 + i].wait = RUNNING;
    }
}

inline void run_block(bool backwards, char* stacks) {
    const int warps = state.threads / 32;
    std::fill(state.words.begin(), state.words.end(), Word());
    for (size_t i = 0; i < state.shared.size(); i++) state.shared[i] = static_cast<uint8_t>(0xa5 + 31 * i);
    state.epoch = 0;
    for (int thread = 0; thread < state.threads; thread++) {
        Fibre& fibre = state.fibres[thread];
        fibre.started = fibre.waited = false;
        fibre.wait = RUNNING;
        fibre.copies.assign(1, {});
        getcontext(&fibre.start);
        fibre.start.uc_stack.ss_sp = stacks + thread * kStack;
        fibre.start.uc_stack.ss_size = kStack;
        fibre.start.uc_link = nullptr;
        makecontext(&fibre.start, entry, 0);
    }
    for (;;) {
        for (int i = 0; i < warps; i++) run_warp(backwards ? warps - 1 - i : i, backwards);
        int at_barrier = 0;
        for (Fibre& fibre : state.fibres) at_barrier += fibre.wait == AT_BARRIER;
        if (at_barrier == 0) break;
        if (at_barrier != state.threads) fail("a barrier that not all threads of the block reach");
        state.epoch++;
        for (Fibre& fibre : state.fibres) fibre.wait = RUNNING;
    }
    for (Fibre& fibre : state.fibres)
        for (auto& group : fibre.copies)
            if (!group.empty()) fail("a block ends before its asynchronous copies");
}

}  // namespace emulator

extern "C" {

void emulator_forget_buffers() { emulator::state.buffers.clear(); }

// Register device memory. changed: an earlier launch wrote it.
void emulator_add_buffer(uintptr_t base, uintptr_t size, int changed) {
    emulator::state.buffers[base] = {base, size, false, changed != 0};
}
int emulator_has_written(uintptr_t base) { return emulator::state.buffers[base].written; }

// Run a kernel over its grid, blocks and warps in forward or reverse order. Returns 0, or 1 with the error in `message`.
int emulator_run(void (*kernel)(const void*), const uint32_t* grid, int threads, int shared_bytes,
                        const void* arguments, int backwards, char* message, size_t message_size) {
    using namespace emulator;
    try {
        state.error.clear();
        state.current = -1;
        if (threads % 32 || threads < 32 || threads > 1024) fail("a block of " + std::to_string(threads) + " threads");
        if (static_cast<size_t>(shared_bytes) > kMaximumShared) fail("too much shared memory");
        state.kernel = kernel;
        state.arguments = arguments;
        state.threads = threads;
        state.fibres.resize(threads);
        const std::unique_ptr<char[]> stacks(new char[threads * kStack]);  // uninitialized: pages are committed when a fibre uses them
        state.shared.resize(shared_bytes);
        state.words.resize((shared_bytes + 3) / 4);
        for (auto& [base, buffer] : state.buffers) buffer.written = false;
        for (int i = 0; i < 3; i++) state.grid[i] = grid[i];
        const uint32_t blocks = grid[0] * grid[1] * grid[2];
        for (uint32_t n = 0; n < blocks; n++) {
            const uint32_t i = backwards ? blocks - 1 - n : n;
            state.block[0] = i % grid[0], state.block[1] = i / grid[0] % grid[1], state.block[2] = i / grid[0] / grid[1];
            run_block(backwards, stacks.get());
        }
        return 0;
    } catch (const std::string& reason) {
        snprintf(message, message_size, "%s", reason.c_str());
        state.current = -1;
        return 1;
    }
}
}
