// CUDA C on a CPU: compiles with g++ before a kernel's source, and runs its threads as fibers.
//
// A fiber is a function with a stack of its own that stops where it likes and goes on later.  The
// blocks of a grid run one after another.  In a block one warp runs until all of its threads wait at
// a barrier, then the next.  In a warp every thread runs until it has to wait, at a barrier or for
// other lanes; when all of them wait, those that may go on do.  So a thread that does not wait where
// it should is far ahead of its neighbours, and reads what they have not written yet: shared memory
// is NaN when a block begins.  In the reversed order, the others are ahead.
//
// An error ends the launch, and is returned as a text: a barrier or a lane that is waited for in
// vain, undefined behaviour (which g++ reports to functions below), an address outside of the
// arguments (whose neighbouring pages are locked: see cuda_source.py).

#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#define __global__
#define __device__ static
#define __constant__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __shared__ static __attribute__((section("cuda_shared")))  // one section, to poison it all

struct uint3 { unsigned int x, y, z; };
static uint3 threadIdx, blockIdx, blockDim, gridDim;
static const int warpSize = 32;

// ---- fibers -------------------------------------------------------------------------------------

enum State { READY, AT_BARRIER, IN_WARP, DONE };

struct Thread {
    ucontext_t start;
    jmp_buf where;  // it goes on from there
    bool started;
    State state;
    uint3 index;
    int line;  // of the source, where it waits
    const char *what;  // the name of what it waits in
    unsigned int mask, source;  // the lanes it waits for, and the one whose value it wants
    unsigned long long value, result;  // what it gives, and what it gets
};

enum { STACK = 1 << 16, MOST = 1024 };
static Thread threads[MOST], *current;
static char *stacks;
static unsigned int n_threads;
static jmp_buf scheduler;
static char error[400], *dynamic_shared;
static void (*kernel)();
extern char __start_cuda_shared[], __stop_cuda_shared[];
__shared__ char cuda_at_least_one_byte[16] __attribute__((used));

// setjmp returns once at first, and again when longjmp comes back to it.  It saves no signal mask,
// and so takes a hundredth of the time of swapcontext, which is needed to enter a new stack alone.
static __attribute__((noinline)) void stop_here() {
    if (!_setjmp(current->where)) _longjmp(scheduler, 1);
}

static void fiber() {
    for (;;) {
        kernel();
        current->state = DONE;
        stop_here();  // until the next block
    }
}

static __attribute__((noinline)) void run_on(Thread *thread) {
    current = thread;
    threadIdx = thread->index;
    if (_setjmp(scheduler)) return;
    if (thread->started) _longjmp(thread->where, 1);
    thread->started = true;
    setcontext(&thread->start);
}

#define FAIL(...) (snprintf(error, sizeof error, __VA_ARGS__), _longjmp(scheduler, 1))

static unsigned long long wait(State state, const char *what, int line, unsigned int mask,
                               unsigned int source, unsigned long long value) {
    current->state = state, current->what = what, current->line = line;
    current->mask = mask, current->source = source, current->value = value;
    stop_here();
    return current->result;
}

// ---- who may go on ------------------------------------------------------------------------------

static bool same_place(const Thread *a, const Thread *b) {
    return a->state == b->state && a->line == b->line && a->what == b->what && a->mask == b->mask;
}

static bool release_warp(unsigned int first, unsigned int lane) {
    Thread *warp = threads + first, *one = warp + lane;
    if (one->state != IN_WARP) return false;
    for (unsigned int i = 0; i < 32; i++)
        if (one->mask >> i & 1 && (first + i >= n_threads || !same_place(warp + i, one))) return false;
    unsigned long long votes = 0;
    for (unsigned int i = 0; i < 32; i++)
        if (one->mask >> i & 1 && warp[i].value) votes |= 1ull << i;
    bool ballot = !strcmp(one->what, "__ballot_sync");
    for (unsigned int i = 0, mask = one->mask; i < 32; i++)
        if (mask >> i & 1) {
            warp[i].result = ballot ? votes : warp[warp[i].source].value;
            warp[i].state = READY;
        }
    return true;
}

static bool release_block() {
    unsigned long long votes = 0;
    for (unsigned int i = 0; i < n_threads; i++) {
        if (threads[i].state != AT_BARRIER || !same_place(threads + i, threads)) return false;
        votes += threads[i].value != 0;
    }
    for (unsigned int i = 0; i < n_threads; i++) threads[i].result = votes, threads[i].state = READY;
    return true;
}

// Run a warp until all of its threads wait at a barrier, or in vain: the others are far behind.
static void run_warp(unsigned int first, bool reversed) {
    for (bool released = true; released && !*error;) {
        released = false;
        for (unsigned int i = 0; i < 32 && !*error; i++) {
            unsigned int number = first + (reversed ? 31 - i : i);
            if (number < n_threads && threads[number].state == READY) run_on(threads + number);
        }
        for (unsigned int i = 0; i < 32 && first + i < n_threads && !*error; i++)
            released |= release_warp(first, i);
    }
}

static void run_block(bool reversed) {
    memset(__start_cuda_shared, -1, __stop_cuda_shared - __start_cuda_shared);
    for (unsigned int i = 0; i < n_threads; i++) threads[i].state = READY;
    unsigned int n_warps = (n_threads + 31) / 32;
    for (;;) {
        for (unsigned int w = 0; w < n_warps && !*error; w++)
            run_warp((reversed ? n_warps - 1 - w : w) * 32, reversed);
        if (*error) return;
        const Thread *waits = 0;
        for (unsigned int i = 0; i < n_threads; i++)
            if (threads[i].state != DONE) waits = threads + i;
        if (!waits) return;
        if (!release_block()) {
            snprintf(error, sizeof error, "line %d: %s of thread (%u, %u, %u) waits in vain: other "
                     "threads have returned, do not exist, or wait elsewhere", waits->line,
                     waits->what, waits->index.x, waits->index.y, waits->index.z);
            return;
        }
    }
}

static void bad_address(int) { FAIL("an address outside of the arguments, of thread (%u, %u, %u)",
                                    threadIdx.x, threadIdx.y, threadIdx.z); }

static const char *run_grid(uint3 grid, uint3 block, size_t shared, bool reversed, void (*function)()) {
    gridDim = grid, blockDim = block, kernel = function, *error = 0;
    n_threads = block.x * block.y * block.z;
    if (n_threads > MOST) return "more than 1024 threads in a block";
    if (!stacks) stacks = (char *)aligned_alloc(64, (size_t)STACK * MOST);
    dynamic_shared = (char *)aligned_alloc(16, (shared + 15) / 16 * 16 + 16);
    for (unsigned int i = 0; i < n_threads; i++) {
        Thread *thread = threads + i;
        thread->started = false;
        thread->index = {i % block.x, i / block.x % block.y, i / block.x / block.y};
        getcontext(&thread->start);
        thread->start.uc_stack.ss_sp = stacks + (size_t)STACK * i;
        thread->start.uc_stack.ss_size = STACK;
        makecontext(&thread->start, fiber, 0);
    }
    struct sigaction action = {}, before[2];
    action.sa_handler = bad_address, action.sa_flags = SA_NODEFER;
    sigaction(SIGSEGV, &action, before), sigaction(SIGBUS, &action, before + 1);
    unsigned long long n_blocks = (unsigned long long)grid.x * grid.y * grid.z;
    for (unsigned long long k = 0; k < n_blocks && !*error; k++) {
        unsigned long long i = reversed ? n_blocks - 1 - k : k;
        blockIdx = {(unsigned int)(i % grid.x), (unsigned int)(i / grid.x % grid.y),
                    (unsigned int)(i / grid.x / grid.y)};
        memset(dynamic_shared, -1, shared);
        run_block(reversed);
    }
    sigaction(SIGSEGV, before, 0), sigaction(SIGBUS, before + 1, 0);
    free(dynamic_shared);
    return *error ? error : 0;
}

// ---- what threads wait in -----------------------------------------------------------------------

#define __syncthreads() (void)wait(AT_BARRIER, "__syncthreads", __LINE__, 0, 0, 0)
#define __syncthreads_count(p) (int)wait(AT_BARRIER, "__syncthreads_count", __LINE__, 0, 0, !!(p))
#define __syncthreads_or(p) (wait(AT_BARRIER, "__syncthreads_or", __LINE__, 0, 0, !!(p)) > 0)
#define __syncthreads_and(p) (wait(AT_BARRIER, "__syncthreads_and", __LINE__, 0, 0, !(p)) == 0)
#define __syncwarp(...) (void)shuffle("__syncwarp", __LINE__, cuda_mask(__VA_ARGS__), 0, cuda_lane())
#define __ballot_sync(mask, p) (unsigned int)shuffle("__ballot_sync", __LINE__, mask, \
                                                     (unsigned long long)!!(p), cuda_lane())
#define __any_sync(mask, p) (__ballot_sync(mask, p) != 0)
#define __all_sync(mask, p) (__ballot_sync(mask, !(p)) == 0)
#define __shfl_sync(mask, v, ...) shuffle("__shfl_sync", __LINE__, mask, v, cuda_read(__VA_ARGS__))
#define __shfl_xor_sync(mask, v, ...) \
    shuffle("__shfl_xor_sync", __LINE__, mask, v, cuda_read_xor(__VA_ARGS__))
#define __shfl_down_sync(mask, v, ...) \
    shuffle("__shfl_down_sync", __LINE__, mask, v, cuda_read_down(__VA_ARGS__))
#define __shfl_up_sync(mask, v, ...) \
    shuffle("__shfl_up_sync", __LINE__, mask, v, cuda_read_up(__VA_ARGS__))

static unsigned int cuda_mask(unsigned int mask = -1) { return mask; }
static unsigned int cuda_lane() { return (current - threads) % 32; }
static unsigned int cuda_read(int lane, int width = 32) {
    return cuda_lane() / width * width + (lane & (width - 1));
}
static unsigned int cuda_read_xor(int bits, int width = 32) {
    unsigned int source = cuda_lane() ^ bits;
    return source / width > cuda_lane() / width ? cuda_lane() : source;
}
static unsigned int cuda_read_down(unsigned int d, int width = 32) {
    return cuda_lane() % width + d < (unsigned int)width ? cuda_lane() + d : cuda_lane();
}
static unsigned int cuda_read_up(unsigned int d, int width = 32) {
    return cuda_lane() % width >= d ? cuda_lane() - d : cuda_lane();
}

template <class T>
static T shuffle(const char *what, int line, unsigned int mask, T value, unsigned int source) {
    static_assert(sizeof(T) <= 8, "a shuffle moves 4 or 8 bytes");
    if (!(mask >> cuda_lane() & 1)) FAIL("line %d: %s: lane %u is not in its mask", line, what, cuda_lane());
    if (!(mask >> source & 1)) FAIL("line %d: %s: lane %u reads lane %u, which is not in the mask",
                                    line, what, cuda_lane(), source);
    unsigned long long bits = 0;
    memcpy(&bits, &value, sizeof(T));
    bits = wait(IN_WARP, what, line, mask, source, bits);
    memcpy(&value, &bits, sizeof(T));
    return value;
}

static inline void __threadfence() {}
template <class T> static T atomicAdd(T *p, T x) { T old = *p; *p += x; return old; }
template <class T> static T atomicMin(T *p, T x) { T old = *p; if (x < old) *p = x; return old; }
template <class T> static T atomicMax(T *p, T x) { T old = *p; if (x > old) *p = x; return old; }

// ---- arithmetic ---------------------------------------------------------------------------------

struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(16) double2 { double x, y; };
struct alignas(8) int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

template <class To, class From> static To cuda_bits(From x) {
    static_assert(sizeof(To) == sizeof(From), "another size");
    To y;
    memcpy(&y, &x, sizeof y);
    return y;
}
static inline float __int_as_float(int x) { return cuda_bits<float>(x); }
static inline int __float_as_int(float x) { return cuda_bits<int>(x); }
static inline float __uint_as_float(unsigned int x) { return cuda_bits<float>(x); }
static inline unsigned int __float_as_uint(float x) { return cuda_bits<unsigned int>(x); }
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)(((unsigned __int128)a * b) >> 64);
}
static inline unsigned int __umulhi(unsigned int a, unsigned int b) {
    return (unsigned int)(((unsigned long long)a * b) >> 32);
}
static inline int __popc(unsigned int x) { return __builtin_popcount(x); }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
template <class T> static T __ldg(const T *p) { return *p; }
static inline float rsqrtf(float x) { return 1 / sqrtf(x); }
static inline float rsqrt(float x) { return 1 / sqrtf(x); }
static inline double rsqrt(double x) { return 1 / sqrt(x); }
#define __expf expf  // a macro, because glibc has declared the name
#define __logf logf
static inline float __fdividef(float x, float y) { return x / y; }
static inline float __frcp_rn(float x) { return 1 / x; }
static inline float __fsqrt_rn(float x) { return sqrtf(x); }
static inline float __fmul_rn(float x, float y) { return x * y; }
static inline float __fadd_rn(float x, float y) { return x + y; }
static inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
template <class T> static T min(T x, T y) { return y < x ? y : x; }
template <class T> static T max(T x, T y) { return x < y ? y : x; }

// ---- what -fsanitize=undefined calls ------------------------------------------------------------

#define UNDEFINED(name, text) \
    extern "C" __attribute__((visibility("hidden"), used)) void __ubsan_handle_##name##_abort(const void *data) { \
        FAIL("%s:%u: " text, *(const char *const *)data, ((const unsigned int *)data)[2]); }
UNDEFINED(out_of_bounds, "an index beyond its array")
UNDEFINED(type_mismatch_v1, "a null or misaligned pointer, or one beyond its object")
UNDEFINED(pointer_overflow, "a pointer overflows")
UNDEFINED(add_overflow, "an integer overflows")
UNDEFINED(sub_overflow, "an integer overflows")
UNDEFINED(mul_overflow, "an integer overflows")
UNDEFINED(negate_overflow, "an integer overflows")
UNDEFINED(divrem_overflow, "a division by 0, or it overflows")
UNDEFINED(shift_out_of_bounds, "a shift by too many bits")
UNDEFINED(load_invalid_value, "a boolean that is neither 0 nor 1")
UNDEFINED(vla_bound_not_positive, "an array of negative length")
UNDEFINED(float_cast_overflow, "a conversion overflows")
