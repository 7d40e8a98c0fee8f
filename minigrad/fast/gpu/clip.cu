// Clipping of a gradient vector: clip_grad_norm of optim.py.
//
// Replaces    361 launches for a model of 6 blocks
// Moves       g in, twice, and out if it is too long.  At 3 TB/s, predicted (not measured) for 10.8
//             million float32 gradients: 43 us
// Threads     one for 4 neighbours, then for the next 4 that no thread has had
// Accuracy    squares and sums are float64, so that no norm overflows; a fixed order of the terms

extern "C" __global__ void square_sums(const real *g, double *parts, uint64 n)
{
    double sum = 0;
    uint64 step = 4 * (uint64)gridDim.x * blockDim.x;
    for (uint64 i = 4 * (blockIdx.x * (uint64)blockDim.x + threadIdx.x); i < n; i += step) {
        real x[4];
        load4(g, i, n, x);
        for (int k = 0; k < 4; k++) sum += (double)x[k] * x[k];
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

// g = g min(1, max_norm / (norm + 1e-6)).  Every block adds up the parts, and gets the same bits.
extern "C" __global__ void clip(
    real *g, const double *parts, double *norm, uint64 n, int n_parts, double max_norm)
{
    double sum = 0;
    for (int i = threadIdx.x; i < n_parts; i += blockDim.x) sum += parts[i];
    double length = sqrt(block_sum(sum)), ratio = max_norm / (length + 1e-6);
    if (blockIdx.x == 0 && threadIdx.x == 0) *norm = length;
    if (ratio >= 1) return;  // not if it is NaN: then all gradients become NaN
    uint64 step = 4 * (uint64)gridDim.x * blockDim.x;
    for (uint64 i = 4 * (blockIdx.x * (uint64)blockDim.x + threadIdx.x); i < n; i += step) {
        real x[4];
        load4(g, i, n, x);
        for (int k = 0; k < 4; k++) x[k] *= (real)ratio;
        store4(g, i, n, x);
    }
}
