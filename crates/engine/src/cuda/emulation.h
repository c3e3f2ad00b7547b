// What CUDA C++ has and C++ has not, so that the kernels run on a CPU: blocks one after the other, their threads as fibres that change
// at barriers. Threads take turns in another order after each barrier, so that a barrier that is missing shows.
#include <cmath>
#include <csetjmp>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ucontext.h>
#include <utility>

#define __global__
#define __device__
#define __shared__ static

struct Dimensions {
    unsigned x, y, z;
};
static Dimensions threadIdx, blockIdx, blockDim, gridDim;

struct alignas(16) float4 {
    float x, y, z, w;
};
static inline float4 make_float4(float x, float y, float z, float w) { return float4{x, y, z, w}; }

struct alignas(8) uint2 {
    unsigned x, y;
};
static inline uint2 make_uint2(unsigned x, unsigned y) { return uint2{x, y}; }

static inline float __uint_as_float(unsigned bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}
static inline float __int_as_float(int bits) { return __uint_as_float((unsigned)bits); }
static inline unsigned __float_as_uint(float value) {
    unsigned bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

static const unsigned MOST_THREADS = 1024;
static const std::size_t STACK = 64 * 1024;

struct Fibre {
    jmp_buf state;
    char* stack;
    bool done, waits;
};
static Fibre fibres[MOST_THREADS];
static jmp_buf scheduler;
static unsigned current;
static void (*body)(void*);
static void* body_arguments;

static void leave_fibre() {
    if (!_setjmp(fibres[current].state)) _longjmp(scheduler, 1);
}

static void __syncthreads() {
    fibres[current].waits = true;
    leave_fibre();
}

// A block's thread, and then the next block's: contexts are made by system calls, once for each fibre.
static void fibre_main() {
    for (;;) {
        leave_fibre();
        body(body_arguments);
        fibres[current].done = true;
    }
}

static void make_fibre(unsigned fibre) {
    ucontext_t context;
    getcontext(&context);
    context.uc_stack.ss_sp = fibres[fibre].stack = (char*)std::malloc(STACK);
    context.uc_stack.ss_size = STACK;
    context.uc_link = nullptr;
    makecontext(&context, fibre_main, 0);
    current = fibre;
    if (!_setjmp(scheduler)) setcontext(&context);
}

static void run_block_of_fibres(unsigned threads) {
    for (unsigned t = 0; t < threads; ++t) {
        if (!fibres[t].stack) make_fibre(t);
        fibres[t].done = false;
    }
    static unsigned round, waiting, done, turn;
    for (round = 0;; ++round) {
        waiting = done = 0;
        for (turn = 0; turn < threads; ++turn) {
            // 0, 1, 2, …; then …, 2, 1, 0; then from the middle.
            current = round % 3 == 0 ? turn : round % 3 == 1 ? threads - 1 - turn : (turn + threads / 2) % threads;
            threadIdx.x = current;
            Fibre& fibre = fibres[current];
            fibre.waits = false;
            if (!fibre.done && !_setjmp(scheduler)) _longjmp(fibre.state, 1);
            waiting += fibres[current].waits;
            done += fibres[current].done;
        }
        if (done == threads) return;
        if (waiting != threads) {
            std::fprintf(stderr, "a barrier that %u of %u threads reach\n", waiting, threads);
            std::abort();
        }
    }
}

template <class F> static void run_grid(const unsigned* grid, unsigned threads, bool barriers, F kernel) {
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {threads, 1, 1};
    threadIdx = {0, 0, 0};
    body = [](void* kernel) { (*(F*)kernel)(); };
    body_arguments = &kernel;
    for (unsigned z = 0; z < grid[2]; ++z) {
        for (unsigned y = 0; y < grid[1]; ++y) {
            for (unsigned x = 0; x < grid[0]; ++x) {
                blockIdx = {x, y, z};
                if (barriers) {
                    run_block_of_fibres(threads);
                } else {
                    for (threadIdx.x = 0; threadIdx.x < threads; ++threadIdx.x) kernel();
                }
            }
        }
    }
}

template <class... A, std::size_t... I>
static void call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
    kernel(*(A*)arguments[I]...);
}

template <class... A>
static void emulate(void (*kernel)(A...), const unsigned* grid, unsigned threads, bool barriers, void** arguments, unsigned count) {
    if (count != sizeof...(A)) {
        std::fprintf(stderr, "%u arguments for a kernel that takes %zu\n", count, sizeof...(A));
        std::abort();
    }
    run_grid(grid, threads, barriers, [=] { call(kernel, arguments, std::index_sequence_for<A...>{}); });
}

#define EMULATED(name, barriers)                                                                                       \
    extern "C" __attribute__((visibility("default"))) void emulated_##name(const unsigned* grid, unsigned threads, void** arguments, unsigned count) {        \
        emulate(name, grid, threads, barriers, arguments, count);                                                      \
    }
