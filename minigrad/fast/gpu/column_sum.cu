// out = the sum of the rows of x (n_rows, n): accurate_sum(x, 0), for the gradient of a bias.
//
// Replaces    CuPy's reduction, which reads a matrix that is much longer than wide with a dozen
//             blocks, and its conversions to float64 and back
// Moves       x once: at 3 TB/s, predicted (not measured) for 16384 x 384 float32: 8 us
// Threads     column_sum_parts: a block takes 32 columns of some rows, one lane a column, so that a
//             warp reads 128 bytes in one access; its 8 warps take every 8th row.
//             column_sum_total: the same blocks, for the sums of the parts.
// Accuracy    sums are float64; they come in a fixed order, so every run gives the same bits

// The sum of rows first, first + 8, ... below stop of column c, and of the other warps' rows.  A row
// is `step` entries behind the one before.
template <class T>
__device__ inline double sum_of_rows(const T *x, int first, int stop, int n, int step)
{
    __shared__ double of_warp[8][32];
    int lane = threadIdx.x, warp = threadIdx.y, c = blockIdx.x * 32 + lane;
    double sum = 0;
    if (c < n) {
#pragma unroll 8  // so many loads are under way at a time
        for (int row = first + warp; row < stop; row += 8) sum += x[(uint64)row * step + c];
    }
    of_warp[warp][lane] = sum;
    __syncthreads();
    if (warp == 0)
        for (int k = 1; k < 8; k++) sum += of_warp[k][lane];
    return sum;
}

// parts (gridDim.y, n): the sums of rows_of_part rows each.
extern "C" __global__ void column_sum_parts(
    const activation *x, double *parts, int n_rows, int n, int rows_of_part)
{
    int c = blockIdx.x * 32 + threadIdx.x, first = blockIdx.y * rows_of_part;
    double sum = sum_of_rows(x, first, min(first + rows_of_part, n_rows), n, n);
    if (threadIdx.y == 0 && c < n) parts[(uint64)blockIdx.y * n + c] = sum;
}

// out (n): the sum of the parts (n_parts, n).
extern "C" __global__ void column_sum_total(
    const double *parts, real *out, int n_parts, int n, int step)
{
    int c = blockIdx.x * 32 + threadIdx.x;
    double sum = sum_of_rows(parts, 0, n_parts, n, step);
    if (threadIdx.y == 0 && c < n) out[c] = sum;
}
