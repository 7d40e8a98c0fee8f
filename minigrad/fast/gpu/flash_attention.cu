// Attention by tiles, forward and backward, in float32: flash_attention.py derives the formulas.
//
// Replaces    the page's products with a softmax between: 11 launches forward and 14 backward, and
//             every (B, H, T, N) array
// Moves       q, k, v, out and their gradients; q, k and v are read again for each tile they meet,
//             mostly out of the second-level cache.  Predicted times: in flash_attention.py
// Threads     128 to a block, which owns a tile of one head: R queries, or R keys, in shared memory.
//             It goes through the tiles of the other kind.  A pair of tiles has R x R scores, which
//             are in registers: a warp has the scores of R/4 rows, and a lane ROWS x COLS of them.
//             Of the block's R x D results it has VECS float4s in each of its ROWS rows.
//
//     kernel                 rows of its scores    columns    results
//     flash_forward          the block's queries   keys       out, lse
//     flash_backward_query   the block's queries   keys       dq, delta
//     flash_backward_key     the block's keys      queries    dk, dv
//
// D, a multiple of 4, comes from the compiler: -DD=64.  float64 is not computed here.

constexpr int R = D <= 64 ? 64 : 32;  // three tiles fit into the 48 KB that every block may have
constexpr int W = D / 4;              // float4s in a query or key
constexpr int SLOTS = 1024 / R;       // float4s of room in a row of a tile: 16 or 32, at least W
constexpr int ROWS = R / 16, COLS = R / 8, VECS = (W + 7) / 8;
constexpr float LOWEST = -3.402823466e38f;  // the largest score of a row before its first tile

// Where a lane's entries are: rows row, row + 8, ... and columns column, column + 8, ... of head h
// of batch entry b.  Neighbours share their rows, and lanes 2 apart their columns: if lanes that are
// 1 or 2 apart read the same 16 bytes, the hardware reads them once.  (It is not documented; matrix
// products of others, as in maxas and CUTLASS, deal out their entries in this way.)
//
// Every part of a kernel asks again.  There are too few registers to keep addresses from one part to
// the next, as the compiler would; empty assembly hides from it that they are the same.
struct Lane { int row, column, h, b; };

__device__ inline Lane this_lane()
{
    unsigned int thread = threadIdx.x, h = blockIdx.x, b = blockIdx.y;
    asm volatile("" : "+r"(thread), "+r"(h), "+r"(b));
    unsigned int warp = thread / 32, lane = thread % 32;
    unsigned int row = warp / 2 * (R / 2) + warp % 2 * 4 + lane / 16 * 2 + lane / 2 % 2;
    unsigned int column = lane / 4 % 4 * 2 + lane % 2;
    return {(int)row, (int)column, (int)h, (int)b};
}

// The largest, or the sum, of x over the 8 lanes that share rows.
__device__ inline float row_max(float x)
{
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 4));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 8));
}

__device__ inline float row_sum(float x)
{
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    x += __shfl_xor_sync(0xffffffffu, x, 4);
    return x + __shfl_xor_sync(0xffffffffu, x, 8);
}

// ---- tiles --------------------------------------------------------------------------------------

// Where float4 number j of a row of a tile is.  Shared memory has 32 banks, 4 bytes wide.  Lanes read
// the same j in 8 consecutive rows, and without the exclusive or all 8 would be in the same 4 banks.
// It changes the last three bits alone: 8 rows further down is 8 SLOTS places on, and j + 8 is 8.
__device__ inline int place(int row, int j) { return (row * SLOTS + row % 8) ^ j; }

// An array (B, H, n, D) whose last axis has no gaps, and how many floats apart two b, h or rows are.
struct View { const float *data; long long b, h, row; };

// Fill a tile with rows first, first + 1, ... of the block's head, and with zeros beyond the last of
// n rows.  A warp fills the rows that it has scores of.
__device__ inline void load_tile(float4 *tile, const View &x, int first, int n)
{
    const Lane own = this_lane();
    const float *data = x.data + own.b * x.b + own.h * x.h + 4 * own.column;
    #pragma unroll 2
    for (int i = 0; i < ROWS; i++) {
        int row = first + own.row + 8 * i;
        #pragma unroll
        for (int j = 0; j < VECS; j++)
            if (own.column + 8 * j < W)
                tile[place(own.row, own.column) + 8 * i * SLOTS + 8 * j] = row < n
                    ? *(const float4 *)(data + row * x.row + 32 * j) : make_float4(0, 0, 0, 0);
    }
}

// Fill a tile with the R x R numbers of all lanes.
__device__ inline void store_tile(float4 *tile, const float (&c)[ROWS][COLS])
{
    const Lane own = this_lane();
    #pragma unroll
    for (int i = 0; i < ROWS; i++)
        #pragma unroll
        for (int j = 0; j < COLS; j++) {
            float4 *to = tile + place(own.row, own.column / 4 + 2 * j) + 8 * i * SLOTS;
            ((float *)to)[own.column % 4] = c[i][j];
        }
}

__device__ inline void add_dot(float &c, float2 x, float2 y)
{
    c += x.x * y.x;
    c += x.y * y.y;
}

__device__ inline void add_dot(float &c, float4 x, float4 y)
{
    add_dot(c, make_float2(x.x, x.y), make_float2(y.x, y.y));
    add_dot(c, make_float2(x.z, x.w), make_float2(y.z, y.w));
}

// c += a bT: entry (i, j) is row i of a times row j of b.  V is float4, or float2 where a lane has
// too few registers to read four numbers of each row at a time.
template <class V>
__device__ inline void add_product_transposed(
    float (&c)[ROWS][COLS], const float4 *a, const float4 *b)
{
    const Lane own = this_lane();
    constexpr int PER = sizeof(float4) / sizeof(V);
    #pragma unroll 1
    for (int d = 0; d < W * PER; d++) {
        const V *x = (const V *)(a + place(own.row, d / PER)) + d % PER;
        const V *y = (const V *)(b + place(own.column, d / PER)) + d % PER;
        V of_row[ROWS];
        #pragma unroll
        for (int i = 0; i < ROWS; i++) of_row[i] = x[8 * i * SLOTS * PER];
        #pragma unroll
        for (int j = 0; j < COLS; j++) {
            V of_column = y[8 * j * SLOTS * PER];
            #pragma unroll
            for (int i = 0; i < ROWS; i++) add_dot(c[i][j], of_row[i], of_column);
        }
    }
}

__device__ inline void add(float4 &c, float x, float4 y)
{
    c.x += x * y.x;
    c.y += x * y.y;
    c.z += x * y.z;
    c.w += x * y.w;
}

// c += a b, where a is R x R and b is R x D.
__device__ inline void add_product(float4 (&c)[ROWS][VECS], const float4 *a, const float4 *b)
{
    const Lane own = this_lane();
    #pragma unroll 1
    for (int k = 0; k < R / 4; k++) {  // four columns of a, four rows of b
        int at = place(4 * k, own.column);
        float4 x[ROWS];
        #pragma unroll
        for (int i = 0; i < ROWS; i++) x[i] = a[place(own.row, k) + 8 * i * SLOTS];
        #pragma unroll
        for (int j = 0; j < VECS; j++) {  // place(4 k + 1, column) is at ^ place(1, 0)
            float4 y0 = b[at + 8 * j], y1 = b[(at ^ place(1, 0)) + 8 * j];
            float4 y2 = b[(at ^ place(2, 0)) + 8 * j], y3 = b[(at ^ place(3, 0)) + 8 * j];
            #pragma unroll
            for (int i = 0; i < ROWS; i++) {
                add(c[i][j], x[i].x, y0);
                add(c[i][j], x[i].y, y1);
                add(c[i][j], x[i].z, y2);
                add(c[i][j], x[i].w, y3);
            }
        }
    }
}

// Write c, row i times factor[i], to rows first, first + 1, ... of the block's head in an array that
// lies in memory as (B, n, H, D).
__device__ inline void write(
    float *x, const float4 (&c)[ROWS][VECS], const float (&factor)[ROWS], int first, int n)
{
    const Lane own = this_lane();
    #pragma unroll
    for (int i = 0; i < ROWS; i++) {
        int row = first + own.row + 8 * i;
        float4 *to = (float4 *)x + (((long long)own.b * n + row) * gridDim.x + own.h) * W;
        #pragma unroll
        for (int j = 0; j < VECS; j++)
            if (row < n && own.column + 8 * j < W) {
                float4 y = c[i][j];
                y.x *= factor[i], y.y *= factor[i], y.z *= factor[i], y.w *= factor[i];
                to[own.column + 8 * j] = y;
            }
    }
}

// ---- numbers and bits of queries ----------------------------------------------------------------

// Where query t of the block's head is in lse, delta and `kept`, which have room for whole tiles.
__device__ inline long long number_of(const Lane &own, int t, int T)
{
    return ((long long)own.b * gridDim.x + own.h) * ((T + R - 1) / R * R) + t;
}

// Dropout's mask: bit n of a query's row of `bits` is about key n.  Rows are `words` long.
struct Mask { unsigned int *bits; int words; };

// Draw the bits of a tile.  A lane draws for its own rows and 8 keys, which are one group of
// keep8(), or parts of two where N is not a multiple of 8.
__device__ inline void draw(const Mask &kept, int first_query, int first_key, int T, int N,
                            const uint64 *key, uint64 layer, uint64 row, uint64 threshold)
{
    const Lane own = this_lane();
    int n = first_key + 8 * own.column;
    #pragma unroll 1
    for (int i = 0; i < ROWS; i++) {
        int t = first_query + own.row + 8 * i;
        if (t >= T || own.column >= R / 8) continue;
        uint64 entry = ((uint64)own.h * T + t) * N + n;  // of row b of the mask
        unsigned int bits = 0;
        #pragma unroll 1
        for (int k = 0; 8 * k < entry % 8 + 8; k++)
            bits |= keep8(key, entry / 8 + k, layer, row + own.b, threshold) << 8 * k;
        unsigned char *bytes = (unsigned char *)(kept.bits + number_of(own, t, T) * kept.words);
        bytes[n / 8] = (unsigned char)(bits >> entry % 8);
    }
}

// Set to 0 what dropout drops, where rows are queries and columns are keys.
__device__ inline void drop_keys(
    float (&p)[ROWS][COLS], const Mask &kept, int first_query, int first_key, int T)
{
    const Lane own = this_lane();
    const unsigned int *bits = kept.bits + number_of(own, first_query + own.row, T) * kept.words;
    #pragma unroll
    for (int i = 0; i < ROWS; i++)
        #pragma unroll
        for (int j = 0; j < COLS; j++) {
            unsigned int word = bits[8 * i * kept.words + first_key / 32 + j / 4];
            if (!(word >> (own.column + 8 * (j % 4)) & 1)) p[i][j] = 0;
        }
}

// The same where rows are keys and columns are queries.
__device__ inline void drop_queries(
    float (&p)[ROWS][COLS], const Mask &kept, int first_query, int first_key, int T)
{
    const Lane own = this_lane();
    int n = first_key + own.row;
    const unsigned int *bits = kept.bits + number_of(own, first_query + own.column, T) * kept.words;
    #pragma unroll
    for (int j = 0; j < COLS; j++) {
        unsigned int word = bits[8 * j * kept.words + n / 32];  // the keys of a lane are in one
        #pragma unroll
        for (int i = 0; i < ROWS; i++)
            if (!(word >> (n % 32 + 8 * i) & 1)) p[i][j] = 0;
    }
}

// ---- the kernels --------------------------------------------------------------------------------

extern "C" __global__ void __launch_bounds__(128, 4) flash_forward(
    const float *q, long long q_b, long long q_h, long long q_t,  // (B, H, T, D), as a View
    const float *k, long long k_b, long long k_h, long long k_n,  // (B, H, N, D)
    const float *v, long long v_b, long long v_h, long long v_n,
    float *out,                                                   // in memory (B, T, H, D)
    float *lse,                                                   // of each query, in bits
    unsigned int *kept, int words,                                // a Mask, or NULL: no dropout
    float rescale,                                                // 1 / (1 - p)
    const uint64 *key, uint64 layer, uint64 row, uint64 threshold,  // for keep8()
    int T, int N,
    int ahead,                                                    // query t sees keys to t + ahead
    float to_bits)                                                // q k times this: exponents of 2
{
    __shared__ float4 queries[1024], keys[1024], values[1024];
    const int first = (gridDim.z - 1 - blockIdx.z) * R;  // the last queries, which see most, begin
    const View Q = {q, q_b, q_h, q_t}, K = {k, k_b, k_h, k_n}, V = {v, v_b, v_h, v_n};
    const Mask mask = {kept, words};

    load_tile(queries, Q, first, T);
    float4 o[ROWS][VECS] = {};
    float m[ROWS], l[ROWS] = {};  // m is in bits; l is a sum over this lane's columns
    for (int i = 0; i < ROWS; i++) m[i] = LOWEST;
    const int n_keys = min(N, min(first + R, T) + ahead);
    for (int start = 0; start < n_keys; start += R) {
        __syncthreads();  // the last tile has been read
        load_tile(keys, K, start, N);
        load_tile(values, V, start, N);
        if (kept) draw(mask, first, start, T, N, key, layer, row, threshold);
        __syncthreads();
        float s[ROWS][COLS] = {};
        add_product_transposed<float4>(s, queries, keys);

        const Lane own = this_lane();
        #pragma unroll
        for (int i = 0; i < ROWS; i++) {
            int last = min(first + own.row + 8 * i + ahead, N - 1);  // the last key that it sees
            float largest = -INFINITE;
            #pragma unroll
            for (int j = 0; j < COLS; j++) {
                if (start + own.column + 8 * j > last) s[i][j] = -INFINITE;
                largest = fmaxf(largest, s[i][j]);
            }
            float before = m[i];
            m[i] = fmaxf(before, to_bits * row_max(largest));
            float shrink = exp2f(before - m[i]);  // 1 if m is what it was, however it was rounded
            l[i] *= shrink;
            #pragma unroll
            for (int j = 0; j < COLS; j++) {
                s[i][j] = exp2f(to_bits * s[i][j] - m[i]);
                l[i] += s[i][j];
            }
            #pragma unroll
            for (int j = 0; j < VECS; j++) {
                float4 &y = o[i][j];
                y.x *= shrink, y.y *= shrink, y.z *= shrink, y.w *= shrink;
            }
        }
        if (kept) drop_keys(s, mask, first, start, T);
        __syncthreads();  // the keys have been read: their tile is free
        store_tile(keys, s);
        __syncwarp();  // a warp reads the rows that it has written
        add_product(o, keys, values);
    }

    const Lane own = this_lane();
    for (int i = 0; i < ROWS; i++) {
        int t = first + own.row + 8 * i;
        l[i] = row_sum(l[i]);
        if (l[i] == 0) l[i] = 1;  // all scores are -infinity: out is 0, and so are its gradients
        // 2^(s - infinity) = 0: queries beyond the last one have no part in dk and dv.
        float bits = t < T ? m[i] + log2f(l[i]) : INFINITE;
        if (own.column == 0) lse[number_of(own, t, T)] = bits;
        l[i] = rescale / l[i];
    }
    write(out, o, l, first, T);
}

extern "C" __global__ void __launch_bounds__(128, 3) flash_backward_query(
    const float *q, long long q_b, long long q_h, long long q_t,
    const float *k, long long k_b, long long k_h, long long k_n,
    const float *v, long long v_b, long long v_h, long long v_n,
    const float *dout, long long dout_b, long long dout_h, long long dout_t,  // (B, H, T, D)
    const float *out, float *dq,                                              // as out in forward
    const float *lse, float *delta,
    unsigned int *kept, int words, float rescale,
    float scale,                                                              // 1 / sqrt(D)
    int T, int N, int ahead, float to_bits)
{
    __shared__ float4 queries[1024], douts[1024], keys[1024];
    const int first = (gridDim.z - 1 - blockIdx.z) * R;
    const View Q = {q, q_b, q_h, q_t}, K = {k, k_b, k_h, k_n}, V = {v, v_b, v_h, v_n};
    const View dOut = {dout, dout_b, dout_h, dout_t};
    const View Out = {out, (long long)T * gridDim.x * D, D, (long long)gridDim.x * D};
    const Mask mask = {kept, words};

    load_tile(queries, Q, first, T);
    load_tile(douts, dOut, first, T);
    load_tile(keys, Out, first, T);  // out, for once
    __syncwarp();
    float row_lse[ROWS], row_delta[ROWS], factor[ROWS];
    const Lane own = this_lane();
    for (int i = 0; i < ROWS; i++) {
        long long number = number_of(own, first + own.row + 8 * i, T);
        float sum = 0;
        for (int j = 0; j < VECS; j++)
            if (own.column + 8 * j < W) {
                int at = place(own.row, own.column) + 8 * i * SLOTS + 8 * j;
                float4 x = douts[at], y = keys[at];
                sum += x.x * y.x + x.y * y.y + x.z * y.z + x.w * y.w;
            }
        row_delta[i] = row_sum(sum);
        row_lse[i] = lse[number];
        if (own.column == 0) delta[number] = row_delta[i];
        factor[i] = scale;
    }

    float4 result[ROWS][VECS] = {};
    const int n_keys = min(N, min(first + R, T) + ahead);
    for (int start = 0; start < n_keys; start += R) {
        __syncthreads();  // the last tile has been read
        load_tile(keys, V, start, N);      // the values first,
        load_tile(douts, dOut, first, T);  // and dout again, where dS was
        __syncthreads();
        float dp[ROWS][COLS] = {}, s[ROWS][COLS] = {};
        add_product_transposed<float4>(dp, douts, keys);
        if (kept) drop_keys(dp, mask, first, start, T);
        __syncthreads();
        load_tile(keys, K, start, N);
        __syncthreads();
        add_product_transposed<float4>(s, queries, keys);

        const Lane own = this_lane();
        #pragma unroll
        for (int i = 0; i < ROWS; i++) {
            int last = min(first + own.row + 8 * i + ahead, N - 1);
            #pragma unroll
            for (int j = 0; j < COLS; j++) {
                if (start + own.column + 8 * j > last) s[i][j] = -INFINITE;
                float p = exp2f(to_bits * s[i][j] - row_lse[i]);
                s[i][j] = p * (rescale * dp[i][j] - row_delta[i]);  // dS
            }
        }
        store_tile(douts, s);  // only this warp has read these rows
        __syncwarp();
        add_product(result, douts, keys);
    }
    write(dq, result, factor, first, T);
}

extern "C" __global__ void __launch_bounds__(128, 3) flash_backward_key(
    const float *q, long long q_b, long long q_h, long long q_t,
    const float *k, long long k_b, long long k_h, long long k_n,
    const float *v, long long v_b, long long v_h, long long v_n,
    const float *dout, long long dout_b, long long dout_h, long long dout_t,
    float *dk, float *dv,                                                     // (B, N, H, D)
    const float *lse, const float *delta,
    unsigned int *kept, int words, float rescale, float scale,
    int T, int N, int ahead, float to_bits)
{
    __shared__ float4 own_rows[1024], queries[1024], douts[1024];
    const int first = blockIdx.z * R;  // the first keys, which most queries see, begin
    const View Q = {q, q_b, q_h, q_t}, K = {k, k_b, k_h, k_n}, V = {v, v_b, v_h, v_n};
    const View dOut = {dout, dout_b, dout_h, dout_t};
    const Mask mask = {kept, words};

    float4 key_result[ROWS][VECS] = {}, value_result[ROWS][VECS] = {};
    for (int start = max(0, first - ahead) / R * R; start < T; start += R) {
        __syncthreads();  // the last tiles have been read
        load_tile(queries, Q, start, T);
        load_tile(douts, dOut, start, T);
        load_tile(own_rows, V, first, N);  // each warp reads and writes its own rows of this tile
        __syncthreads();
        float ds[ROWS][COLS] = {}, p[ROWS][COLS] = {};
        add_product_transposed<float4>(ds, own_rows, douts);  // dP, transposed as all that follows
        if (kept) drop_queries(ds, mask, start, first, T);
        {
            const Lane own = this_lane();
            const float *deltas = delta + number_of(own, start + own.column, T);
            #pragma unroll
            for (int j = 0; j < COLS; j++)
                #pragma unroll
                for (int i = 0; i < ROWS; i++) ds[i][j] = rescale * ds[i][j] - deltas[8 * j];
        }
        __syncwarp();
        load_tile(own_rows, K, first, N);
        __syncwarp();
        add_product_transposed<float2>(p, own_rows, queries);  // the scores
        __syncwarp();
        {
            const Lane own = this_lane();
            const float *lses = lse + number_of(own, start + own.column, T);
            #pragma unroll
            for (int j = 0; j < COLS; j++) {
                int t = start + own.column + 8 * j, last = t < T ? t + ahead : -1;
                #pragma unroll
                for (int i = 0; i < ROWS; i++) {
                    if (first + own.row + 8 * i > last) p[i][j] = -INFINITE;
                    p[i][j] = exp2f(to_bits * p[i][j] - lses[8 * j]);
                    ds[i][j] *= p[i][j];
                }
            }
        }
        store_tile(own_rows, ds);
        __syncwarp();
        add_product(key_result, own_rows, queries);
        __syncwarp();
        if (kept) drop_queries(p, mask, start, first, T);
        store_tile(own_rows, p);
        __syncwarp();
        add_product(value_result, own_rows, douts);
    }
    float key_factor[ROWS], value_factor[ROWS];
    for (int i = 0; i < ROWS; i++) key_factor[i] = scale, value_factor[i] = rescale;
    write(dk, key_result, key_factor, first, N);
    write(dv, value_result, value_factor, first, N);
}
