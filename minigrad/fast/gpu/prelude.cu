// The beginning of every CUDA source: launch.py puts it in front of each file of this folder.
//
// A thread block has up to 1024 threads, in warps of 32 that run together; the number of a thread
// in its warp is its lane.  Threads of a warp read each other's registers by a shuffle, those of a
// block meet at __syncthreads() and share __shared__ memory.

typedef unsigned long long uint64;

// Kernels compute in `real` and keep large arrays as `activation`: float32, or float64 by -DDOUBLE.
#ifdef DOUBLE
typedef double real;
typedef double activation;
#else
typedef float real;
typedef float activation;
#endif

#define INFINITE ((real)__int_as_float(0x7f800000))
#define NOT_A_NUMBER ((real)__int_as_float(0x7fc00000))

__device__ inline real load(const activation *p) { return *p; }
__device__ inline void store(activation *p, real x) { *p = x; }

// Four neighbours from entry i on, as far as the array of n entries goes; in one access where i is
// a multiple of 4 and the array begins at an address that allows it.
struct alignas(4 * sizeof(activation)) four { activation at[4]; };

__device__ inline bool in_one(const activation *p, uint64 i, uint64 n)
{
    return i + 4 <= n && (uint64)(p + i) % sizeof(four) == 0;
}

__device__ inline void load4(const activation *p, uint64 i, uint64 n, real *x)
{
    four all = {};
    if (in_one(p, i, n)) all = *(const four *)(p + i);
    else for (int k = 0; k < 4; k++) if (i + k < n) all.at[k] = p[i + k];
    for (int k = 0; k < 4; k++) x[k] = load(all.at + k);
}

__device__ inline void store4(activation *p, uint64 i, uint64 n, const real *x)
{
    four all;
    for (int k = 0; k < 4; k++) store(all.at + k, x[k]);
    if (in_one(p, i, n)) *(four *)(p + i) = all;
    else for (int k = 0; k < 4; k++) if (i + k < n) p[i + k] = all.at[k];
}

// The sum over the lanes of a warp, in every lane.  In each round a lane adds the total of another
// group of lanes, twice as large as in the round before.  (+ is commutative, also when it rounds:
// so all lanes get the same bits.)
template <class T>
__device__ inline T warp_sum(T x)
{
    for (int i = 1; i < 32; i *= 2) x += __shfl_xor_sync(0xffffffffu, x, i);
    return x;
}

// The sum over the threads of a block, in every thread; blockDim.x is a multiple of 32, .y is 1.
template <class T>
__device__ inline T block_sum(T x)
{
    __shared__ T of_warp[32];
    x = warp_sum(x);
    __syncthreads();  // everybody has read what an earlier call has written
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = x;
    __syncthreads();
    x = 0;
    for (int i = 0; i < blockDim.x / 32; i++) x += of_warp[i];
    return x;
}

// random.philox(), bit for bit: 256 random bits of the key {seed, step} and a counter.  Ten rounds of
// two multiplications, whose upper halves are stirred into the other words.  The key is in memory,
// not an argument, because a CUDA graph is replayed with the arguments that it was captured with.
__device__ inline void philox(
    const uint64 *key, uint64 group, uint64 layer, uint64 row, uint64 use, uint64 *words)
{
    uint64 c0 = group + 1;  // NumPy counts up before it draws
    uint64 c1 = layer, c2 = row, c3 = use;
    uint64 k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++) {
        const uint64 m0 = 0xD2E7470EE14C6C93, m1 = 0xCA5A826395121157;  // Philox's, as below
        uint64 high0 = __umul64hi(m0, c0), low0 = m0 * c0;  // the halves of a product of 128 bits
        uint64 high1 = __umul64hi(m1, c2), low1 = m1 * c2;
        c0 = high1 ^ c1 ^ k0;
        c1 = low1;
        c2 = high0 ^ c3 ^ k1;
        c3 = low0;
        k0 += 0x9E3779B97F4A7C15;
        k1 += 0xBB67AE8584CAA73B;
    }
    words[0] = c0, words[1] = c1, words[2] = c2, words[3] = c3;
}

// Which of 8 neighbours dropout keeps: bit i is entry 8 group + i of a row, as random.keep_mask()
// says.  An entry is kept if its 32 bits are at least p 2^32, rounded: the threshold.
__device__ inline unsigned int keep8(
    const uint64 *key, uint64 group, uint64 layer, uint64 row, uint64 threshold)
{
    uint64 words[4];
    const uint64 MASK = 0;  // the use of random bits, as in minigrad/random.py
    philox(key, group, layer, row, MASK, words);
    unsigned int kept = 0;
    for (int i = 0; i < 8; i++) {
        unsigned int bits = (unsigned int)(words[i / 2] >> (32 * (i % 2)));  // the lower half first
        kept |= (unsigned int)(bits >= threshold) << i;
    }
    return kept;
}

// Sums over the threads that share a row: a warp (TEAM 32), or a whole block of TEAM threads.
#ifdef TEAM
template <class T>
__device__ inline T team_sum(T x) { return TEAM == 32 ? warp_sum(x) : block_sum(x); }
#endif
