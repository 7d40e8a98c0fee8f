// Which entries dropout keeps: random.keep_mask(), bit for bit, on a GPU.
//
// Philox turns a counter (group + 1, layer, row, use) and a key (seed, step) into 256 random bits:
// ten rounds of two multiplications, whose upper halves are stirred into the other words.  A thread
// computes one counter: 4 words of 64 bits, which decide on a group of 8 entries of a row.

typedef unsigned long long uint64;

// __global__: it runs on the GPU, once in every thread; extern "C" keeps its name for CuPy to find.
extern "C" __global__ void dropout_keep(
    bool *keep,                   // (n_rows, size), to be filled
    uint64 n_rows, uint64 size,   // size: how many entries a row has
    uint64 threshold,             // p 2^32, rounded: an entry is kept if its 32 bits are no less
    uint64 seed, uint64 step, uint64 layer, uint64 row, uint64 use)
{
    uint64 groups = (size + 7) / 8;  // in a row
    uint64 thread = blockIdx.x * (uint64)blockDim.x + threadIdx.x;  // its number among all
    if (thread >= n_rows * groups) return;  // the last block has threads to spare
    uint64 b = thread / groups, group = thread % groups;

    uint64 c0 = group + 1;  // NumPy counts up before it draws
    uint64 c1 = layer, c2 = row + b, c3 = use;
    uint64 k0 = seed, k1 = step;
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

    uint64 words[4] = {c0, c1, c2, c3};
    for (int i = 0; i < 8; i++) {
        uint64 entry = 8 * group + i;
        unsigned int bits = (unsigned int)(words[i / 2] >> (32 * (i % 2)));  // the lower half first
        if (entry < size) keep[b * size + entry] = bits >= threshold;
    }
}
