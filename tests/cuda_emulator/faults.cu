// Kernels with one deliberate fault each, and one correct kernel; the emulator must report exactly the faulty ones.
#include <arguments.cuh>

struct FaultArguments {
    u32* data;
    int count;
};

template <void (*Body)(const FaultArguments&)>
DEVICE void waited(const FaultArguments& a) {
    wait_for_previous();
    Body(a);
}

DEVICE void right(const FaultArguments& a) {
    const Shared<u32> words = shared_at<u32>(0);
    words[thread()] = thread();
    sync_block();
    const u32 other = words[threads() - 1 - thread()];
    store(Global<u32>(a.data), thread(), other + shuffle_xor(u32(0), 1));
}
DEVICE void beyond_the_end(const FaultArguments& a) { store(Global<u32>(a.data), a.count + int(thread()), u32(0)); }
DEVICE void before_the_start(const FaultArguments& a) { load<u32>(Global<const u32>(a.data), -1 - int(thread())); }
DEVICE void out_of_alignment(const FaultArguments& a) {
    load<uint4>(Global<const uint4>(reinterpret_cast<const uint4*>(a.data + 1)), 0);
}
DEVICE void beyond_shared(const FaultArguments& a) { shared_at<u32>(0)[1 << 20] = 0; }
DEVICE void no_barrier(const FaultArguments& a) {
    const Shared<u32> words = shared_at<u32>(0);
    words[thread()] = thread();
    store(Global<u32>(a.data), thread(), static_cast<u32>(words[threads() - 1 - thread()]));
}
DEVICE void write_after_read(const FaultArguments& a) {
    const Shared<u32> words = shared_at<u32>(0);
    words[thread()] = thread();
    sync_block();
    const u32 other = words[(thread() + 1) % threads()];
    words[thread()] = other;
}
DEVICE void not_all_at_the_barrier(const FaultArguments& a) {
    if (thread() < 32) sync_block();
}
DEVICE void half_a_warp(const FaultArguments& a) {
    if (thread() % 32 < 16) shuffle_xor(thread(), 1);
}
DEVICE void different_collectives(const FaultArguments& a) { shuffle_xor(thread(), thread() % 32 < 16 ? 1 : 2); }
DEVICE void copy_not_waited_for(const FaultArguments& a) {
    const Shared<uint4> words = shared_at<uint4>(0);
    if (thread() == 0) copy_async(words, 0, Global<const uint4>(reinterpret_cast<const uint4*>(a.data)), 0);
    commit_copies();
    sync_block();
    const uint4 first = words[0];
    store(Global<u32>(a.data), thread(), first.x);
}
DEVICE void copy_without_barrier(const FaultArguments& a) {
    const Shared<uint4> words = shared_at<uint4>(0);
    if (thread() == 0) copy_async(words, 0, Global<const uint4>(reinterpret_cast<const uint4*>(a.data)), 0);
    commit_copies();
    wait_copies<0>();
    const uint4 first = words[0];
    store(Global<u32>(a.data), thread(), first.x);
}
DEVICE void not_waited_for(const FaultArguments& a) { load<u32>(Global<const u32>(a.data), thread()); }
DEVICE void changed_before(const FaultArguments& a) { load_constant<u32>(Global<const u32>(a.data), thread()); }
DEVICE void prefetch_beyond_the_end(const FaultArguments& a) { prefetch<u32>(Global<const u32>(a.data), 0, 512); }
DEVICE void stale_load(const FaultArguments& a) {
    store(Global<u32>(a.data), thread(), u32(1));
    load<u32>(Global<const u32>(a.data), thread());
}
