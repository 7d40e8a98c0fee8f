// The windows of a text that lies on the GPU: x = text[start ... start + T - 1], y one further on.
//
// Replaces    the upload of x and y, two a batch
// Moves       a few hundred KB: less than 1 us at 3 TB/s, predicted (not measured)
// Threads     a block a window; a warp reads 32 neighbours

extern "C" __global__ void windows(
    const int *text, const long long *starts, long long *x, long long *y, int T)
{
    text += starts[blockIdx.x];
    uint64 first = (uint64)blockIdx.x * T;
    for (int t = threadIdx.x; t < T; t += blockDim.x) x[first + t] = text[t], y[first + t] = text[t + 1];
}
