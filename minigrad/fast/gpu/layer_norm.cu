// Layer norm: ops/layer_norm.py.  out = w xhat + b  with  xhat = (x - mu) r.
//
// Replaces    28 launches forward and 33 backward
// Moves       forward: x in, out out; backward: x and dout in, dx out; w, b and 3 numbers a row
//             are small.  At 3 TB/s, predicted (not measured) for 16384 x 384 float32: 17 us
//             forward, 25 us backward
// Threads     TEAM of them share a row and keep it in registers, PER entries each: a warp for up to
//             512 entries, then a whole block.  A block of warps has ROWS rows at a time.

#define ROW ((int)blockIdx.x * ROWS + (int)threadIdx.y)
#define EACH(k, c) for (int k = 0, c = threadIdx.x; k < PER; k++, c += TEAM) if (c < C)
// PER is known when this is compiled, so the loops are unrolled and v[k] is a register; with the
// __launch_bounds__ a thread may use so many registers as a block of this size leaves to it.

extern "C" __global__ void __launch_bounds__(TEAM * ROWS) layer_norm_forward(
    const activation *x, const real *w, const real *b, activation *out, real *stats, int n_rows,
    int C, real eps)
{
    int row = ROW;
    if (row >= n_rows) return;  // a whole warp: a row has a block to itself, or a warp
    x += (uint64)row * C, out += (uint64)row * C;
    real v[PER], sum = 0;
    EACH(k, c) sum += v[k] = load(x + c);
    real mean = team_sum(sum) / C;
    sum = 0;
    EACH(k, c) sum += v[k] -= mean;
    real rest = team_sum(sum) / C;  // the rounding error of the mean
    sum = 0;
    EACH(k, c) v[k] -= rest, sum += v[k] * v[k];
    real r = 1 / sqrt(team_sum(sum) / C + eps);
    EACH(k, c) store(out + c, v[k] * r * (w ? w[c] : 1) + (b ? b[c] : 0));
    if (threadIdx.x == 0) stats[3 * row] = mean, stats[3 * row + 1] = rest, stats[3 * row + 2] = r;
}

// dx = r (dxhat - mean(dxhat) - xhat mean(dxhat xhat)),  dxhat = dout w
//
// parts (gridDim.x, 2 C): dw and db of the rows that a block has had, to be added up by column_sum.
extern "C" __global__ void __launch_bounds__(TEAM * ROWS) layer_norm_backward(
    const activation *x, const activation *dout, const real *w, const real *stats, activation *dx,
    double *parts, int n_rows, int C)
{
    real dw[PER] = {}, db[PER] = {};
    for (int row = ROW; row < n_rows; row += gridDim.x * ROWS) {
        uint64 first = (uint64)row * C;
        real mean = stats[3 * row], rest = stats[3 * row + 1], r = stats[3 * row + 2];
        real xhat[PER], dxhat[PER], sum = 0, dot = 0;
        EACH(k, c) {
            real d = load(dout + first + c);
            xhat[k] = (load(x + first + c) - mean - rest) * r;
            dw[k] += d * xhat[k], db[k] += d;
            dxhat[k] = w ? d * w[c] : d;
            sum += dxhat[k], dot += dxhat[k] * xhat[k];
        }
        real along_ones = team_sum(sum) / C, along_xhat = team_sum(dot) / C;
        EACH(k, c) store(dx + first + c, r * (dxhat[k] - along_ones - xhat[k] * along_xhat));
    }
    double *part = parts + (uint64)blockIdx.x * 2 * C;
#if ROWS == 1
    EACH(k, c) part[c] = dw[k], part[C + c] = db[k];
#else
    __shared__ real of_row[ROWS][TEAM * PER];
    for (int which = 0; which < 2; which++, part += C) {  // dw, then db
        __syncthreads();
        EACH(k, c) of_row[threadIdx.y][c] = which ? db[k] : dw[k];
        __syncthreads();
        for (int c = threadIdx.y * TEAM + threadIdx.x; c < C; c += ROWS * TEAM) {
            double sum = 0;
            for (int k = 0; k < ROWS; k++) sum += of_row[k][c];
            part[c] = sum;
        }
    }
#endif
}
