// Cross-entropy: ops/cross_entropy.py.  A row's loss is  ln(total) - (x[t] - m)  with m its largest
// logit and  total = the sum of exp(x - m).
//
// Replaces    14 launches forward and 6 backward, and an array of probabilities
// Moves       forward: the logits in, twice (the second time mostly from the cache); backward: the
//             logits in and their gradient out.  At 3 TB/s, predicted (not measured) for
//             8192 x 50257 float32: 0.55 to 1.1 ms forward, 1.1 ms backward
// Threads     TEAM of them share a row, a warp if it is short, else a block; ROWS rows in a block

#define ROW ((int)blockIdx.x * ROWS + (int)threadIdx.y)

// The largest over the threads that share a row.  NaN counts as nothing: the sum will be NaN.
__device__ inline real team_max(real x)
{
    for (int i = 16; i > 0; i /= 2) {
        real other = __shfl_xor_sync(0xffffffffu, x, i);
        x = other > x ? other : x;
    }
#if TEAM > 32
    __shared__ real of_warp[TEAM / 32];
    __syncthreads();
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = x;
    __syncthreads();
    for (int i = 0; i < TEAM / 32; i++) x = of_warp[i] > x ? of_warp[i] : x;
#endif
    return x;
}

// losses, maxima m and totals (n_rows): the loss of a row that is ignored is 0.
extern "C" __global__ void cross_entropy_forward(
    const activation *logits, const long long *targets, real *losses, real *maxima, real *totals,
    int n_rows, int V, bool may_ignore, long long ignored, real smoothing)
{
    int row = ROW;
    if (row >= n_rows) return;
    long long t = targets[row];
    const activation *x = logits + (uint64)row * V;
    real m = -INFINITE;
    for (int j = threadIdx.x; j < V; j += TEAM) m = load(x + j) > m ? load(x + j) : m;
    m = team_max(m);
    real total = 0, shifts = 0;
    for (int j = threadIdx.x; j < V; j += TEAM) {
        real shifted = load(x + j) - m;
        total += exp(shifted), shifts += shifted;
    }
    total = team_sum(total), shifts = team_sum(shifts);
    if (threadIdx.x > 0) return;
    if (t < 0) t += V;  // CuPy, too, counts from the end
    real loss = t >= 0 && t < V ? log(total) - (load(x + t) - m) : NOT_A_NUMBER;
    if (smoothing > 0) loss = (1 - smoothing) * loss + smoothing * (log(total) - shifts / V);
    losses[row] = may_ignore && targets[row] == ignored ? 0 : loss;
    maxima[row] = m, totals[row] = total;
}

// out = the sum of the losses, or their mean over the rows that count; n = how many do, for
// backward.  One block: there are few rows, and in a fixed order the sum is the same in every run.
extern "C" __global__ void cross_entropy_reduce(
    const real *losses, const long long *targets, real *out, real *n, int n_rows, bool may_ignore,
    long long ignored, bool mean)
{
    double sum = 0;
    int counted = 0;
    for (int row = threadIdx.x; row < n_rows; row += blockDim.x) {
        sum += losses[row];
        counted += !(may_ignore && targets[row] == ignored);
    }
    sum = block_sum(sum), counted = block_sum(counted);
    if (threadIdx.x > 0) return;
    *n = mean ? counted : 1;
    *out = (real)sum / *n;
}

// dlogits = (p - q) dout / n.  dout and n are one number each, or dout one a row and n NULL.
extern "C" __global__ void cross_entropy_backward(
    const activation *logits, const long long *targets, const real *maxima, const real *totals,
    const real *dout, const real *n, activation *dlogits, int n_rows, int V, bool may_ignore,
    long long ignored, real smoothing)
{
    int row = ROW;
    if (row >= n_rows) return;
    long long t = targets[row];
    bool counts = !(may_ignore && t == ignored);
    if (t < 0) t += V;
    const activation *x = logits + (uint64)row * V;
    real m = maxima[row], total = totals[row], d = n ? *dout / *n : dout[row];
    for (int j = threadIdx.x; j < V; j += TEAM) {
        real p = exp(load(x + j) - m) / total;
        real q = (j == t ? 1 - smoothing : 0) + smoothing / V;
        store(dlogits + (uint64)row * V + j, counts ? (p - q) * d : 0);
    }
}
