// Embedding: ops/embedding.py.  out = weight[ids], and dweight[v] = the sum of dout where ids = v.
//
// Replaces    3 launches forward; backward, 9 launches, or a product with the one-hot matrix
// Moves       forward: a row of weight in and of out out for every id; backward: dout in, and out
//             the rows of dweight whose token occurred (the others were set to 0 before).  At
//             3 TB/s, predicted (not measured) for 16384 ids and C 384: 17 us forward; backward 10
//             us for the sums, and about 30 to look for equal ids in the cache
// Threads     forward: a warp an id; backward: a block for every position and every 128 columns

// rows (n): the ids as int32, where CuPy would look: an id beyond the table wraps around.
extern "C" __global__ void embedding_forward(
    const long long *ids, const real *weight, activation *out, int *rows, int n, int V, int C)
{
    int i = blockIdx.x * blockDim.y + threadIdx.y;
    if (i >= n) return;
    int row = (int)((ids[i] % V + V) % V);
    if (threadIdx.x == 0) rows[i] = row;
    for (int c = threadIdx.x; c < C; c += 32)
        store(out + (uint64)i * C + c, weight[(uint64)row * C + c]);
}

// The block of the first position of a token adds up all of its rows; those of later positions
// find that out and return.  So every row of dweight has one writer, and its terms come in a fixed
// order: each of 8 warps goes through an eighth of the positions.
extern "C" __global__ void embedding_backward(
    const int *rows, const activation *dout, real *dweight, int n, int C)
{
    const int PER = 4, WARPS = 8;  // columns of a lane; blockDim.y
    __shared__ double of_warp[WARPS][32 * PER];
    int me = blockIdx.x, row = rows[me], lane = threadIdx.x, warp = threadIdx.y;
    for (int stop = me; stop > 0; stop -= 32 * WARPS) {  // backwards: most tokens occurred lately
        int i = stop - 1 - (32 * warp + lane);
        if (__syncthreads_or(i >= 0 && rows[i] == row)) return;
    }
    double sum[PER] = {};
    int share = (n - me + WARPS - 1) / WARPS, first = me + warp * share;
    int stop = min(first + share, n), c0 = blockIdx.y * 32 * PER + lane;
    for (int base = first; base < stop; base += 32) {
        bool equal = base + lane < stop && rows[base + lane] == row;
        unsigned int found = __ballot_sync(0xffffffffu, equal);
        for (; found; found &= found - 1) {  // drops the lowest bit
            const activation *d = dout + (uint64)(base + __ffs(found) - 1) * C;
            for (int k = 0; k < PER; k++) if (c0 + 32 * k < C) sum[k] += load(d + c0 + 32 * k);
        }
    }
    for (int k = 0; k < PER; k++) of_warp[warp][lane + 32 * k] = sum[k];
    __syncthreads();
    for (int k = warp; k < PER; k += WARPS) {
        double total = 0;
        for (int w = 0; w < WARPS; w++) total += of_warp[w][lane + 32 * k];
        if (c0 + 32 * k < C) dweight[(uint64)row * C + c0 + 32 * k] = total;
    }
}
