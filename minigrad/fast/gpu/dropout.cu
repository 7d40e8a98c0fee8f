// Dropout: ops/dropout.py, and the mask alone: random.keep_mask(), bit for bit.
//
// Replaces    7 launches forward and backward, and three passes over masks of x's size
// Moves       forward: x in, out and a byte for 8 entries out; backward the same.  At 3 TB/s,
//             predicted (not measured) for 64 rows of 98304 float32: 17 us each
// Threads     one for 8 neighbours, which share the 256 bits of one Philox counter.  Each row of x
//             begins with a group, and gets `blocks` thread blocks: 32-bit divisions are quick.

struct Group { uint64 row, group, first; };  // first: the number of its first entry in the row

__device__ inline Group this_group(unsigned int blocks)
{
    uint64 group = blockIdx.x % blocks * (uint64)blockDim.x + threadIdx.x;
    return {blockIdx.x / blocks, group, 8 * group};
}

__device__ inline void select8(
    const activation *x, activation *out, uint64 first, uint64 size, unsigned int kept, real scale)
{
    for (int half = 0; half < 8; half += 4) {
        real v[4];
        load4(x, first + half, size, v);
        for (int i = 0; i < 4; i++) v[i] = kept >> (half + i) & 1 ? v[i] * scale : 0;
        store4(out, first + half, size, v);
    }
}

extern "C" __global__ void dropout_forward(
    const activation *x, activation *out, unsigned char *kept, const uint64 *key,
    uint64 layer, uint64 row, uint64 threshold, real scale, uint64 size, unsigned int blocks)
{
    Group at = this_group(blocks);
    if (at.first >= size) return;
    unsigned int bits = keep8(key, at.group, layer, row + at.row, threshold);
    kept[at.row * ((size + 7) / 8) + at.group] = (unsigned char)bits;
    select8(x + at.row * size, out + at.row * size, at.first, size, bits, scale);
}

extern "C" __global__ void dropout_backward(
    const activation *dout, activation *dx, const unsigned char *kept, real scale, uint64 size,
    unsigned int blocks)
{
    Group at = this_group(blocks);
    if (at.first >= size) return;
    unsigned int bits = kept[at.row * ((size + 7) / 8) + at.group];
    select8(dout + at.row * size, dx + at.row * size, at.first, size, bits, scale);
}

extern "C" __global__ void dropout_keep(
    bool *keep, const uint64 *key, uint64 layer, uint64 row, uint64 threshold, uint64 size,
    unsigned int blocks)
{
    Group at = this_group(blocks);
    if (at.first >= size) return;
    unsigned int bits = keep8(key, at.group, layer, row + at.row, threshold);
    for (int i = 0; i < 8; i++)
        if (at.first + i < size) keep[at.row * size + at.first + i] = bits >> i & 1;
}
