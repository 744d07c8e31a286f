// CUDA's words for a C++ compiler: one block after another on the CPU, its threads in turn.
#include <cmath>
#include <cstring>
#include <ucontext.h>

#define __device__
#define __global__
#define __shared__

struct Index { unsigned x, y, z; };
static Index threadIdx, blockIdx, blockDim, gridDim;

static inline int __float_as_int(float x) { int bits; memcpy(&bits, &x, 4); return bits; }
static inline float __int_as_float(int bits) { float x; memcpy(&x, &bits, 4); return x; }
static inline int max(int a, int b) { return a > b ? a : b; }
template <class T> static T atomicAdd(T *at, T value) { T before = *at; *at += value; return before; }

unsigned tally[12 * 1024];  // a block's dynamic shared memory

// threads that can wait for each other: each has a stack of its own
static ucontext_t scheduler, threads[1024];
static char stacks[1024][1 << 15];
static bool ended[1024];
static unsigned current;
static void (*body)();

static void thread_main() { body(); ended[current] = true; }
static inline void __syncthreads() { swapcontext(&threads[current], &scheduler); }

static void resume(unsigned thread) {
    current = threadIdx.x = thread;
    swapcontext(&scheduler, &threads[thread]);
}

static void run_waiting_block() {
    memset(tally, 0xA5, sizeof tally);  // nobody clears it for a kernel
    for (unsigned t = 0; t < blockDim.x; ++t) {
        getcontext(&threads[t]);
        threads[t].uc_stack = {stacks[t], 0, sizeof stacks[t]};
        threads[t].uc_link = &scheduler;
        ended[t] = false;
        makecontext(&threads[t], thread_main, 0);
    }
    for (bool any = true; any;) {
        any = false;
        for (unsigned t = 0; t < blockDim.x; ++t)
            if (!ended[t]) { any = true; resume(t); }
    }
}

static void run(unsigned first, unsigned blocks, unsigned threads_of_a_block, bool waiting) {
    gridDim.x = blocks, blockDim.x = threads_of_a_block;
    for (blockIdx.x = first; blockIdx.x < blocks; ++blockIdx.x) {
        if (waiting) run_waiting_block();
        else for (threadIdx.x = 0; threadIdx.x < threads_of_a_block; ++threadIdx.x) body();
    }
}

// an argument of 64 bits, as whatever the kernel takes there
struct Argument {
    long long bits;
    operator long long() const { return bits; }
    template <class T> operator T *() const { return (T *)bits; }
};
static const Argument *arguments;
