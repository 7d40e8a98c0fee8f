// AdamW: optim.py, in the form of fast/adamw.py.
//
// Replaces    14 launches, and 9 passes over vectors of w's size
// Moves       w, g, m and v in; w, m and v out.  At 3 TB/s, predicted (not measured) for 10.8
//             million float32 parameters: 0.10 ms
// Threads     one for 4 neighbours

// hyper: beta1, 1 - beta1, beta2, 1 - beta2, eps c, lr c / (1 - beta1^t), 1 - lr decay, with
// c = sqrt(1 - beta2^t).  They are in memory because a CUDA graph is replayed with the arguments
// that it was captured with.  The entries from `middle` on have 7 numbers of their own, behind the
// first.  Nothing happens if *skip is true.
extern "C" __global__ void adamw(
    real *w, const real *g, real *m, real *v, uint64 middle, uint64 n, const real *numbers,
    const bool *skip)
{
    uint64 first = 4 * (blockIdx.x * (uint64)blockDim.x + threadIdx.x);
    if (first >= n || (skip && *skip)) return;
    real wi[4], gi[4], mi[4], vi[4];
    load4(w, first, n, wi), load4(g, first, n, gi), load4(m, first, n, mi), load4(v, first, n, vi);
    for (int k = 0; k < 4; k++) {
        const real *hyper = middle < n && first + k >= middle ? numbers + 7 : numbers;
        mi[k] = hyper[0] * mi[k] + hyper[1] * gi[k];
        vi[k] = hyper[2] * vi[k] + hyper[3] * (gi[k] * gi[k]);
        wi[k] = hyper[6] * wi[k] - hyper[5] * (mi[k] / (sqrt(vi[k]) + hyper[4]));
    }
    store4(w, first, n, wi), store4(m, first, n, mi), store4(v, first, n, vi);
}
