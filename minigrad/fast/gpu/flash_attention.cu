// Attention by tiles, forward and backward, in float32.  flash_attention.py derives the formulas.
//
// A tile is R consecutive queries or keys of one head, in shared memory.  A block of 128 threads
// owns a tile and goes through the tiles of the other kind.  Scores S and weights P exist for one
// pair of tiles at a time, R x R of them, spread over the registers of the block:
//
//     flash_forward          owns queries, goes through keys      out and lse
//     flash_backward_query   owns queries, goes through keys      delta and dq
//     flash_backward_key     owns keys, goes through queries      dk and dv, with S transposed
//
// A warp owns R/4 consecutive rows of the block's R x R scores.  A lane has ROWS x COLS of these:
// rows 4 apart and columns 8 apart.  A lane's part of out, dq, dk or dv has the same rows, and
// VECS float4s, 8 apart.  D, the length of q, k and v, is given to the compiler: -DD=64.

constexpr int R = D <= 64 ? 64 : 32;  // queries or keys in a tile, so that three tiles fit in 48 KB
constexpr int W = D / 4;              // float4s in a query or key
constexpr int SLOTS = 1024 / R;       // float4s of room for a row of a tile, at least W
constexpr int ROWS = R / 16, COLS = R / 8, VECS = (W + 7) / 8;
constexpr unsigned int ALL = 0xffffffff;  // lanes
constexpr float LOWEST = -3.402823466e38f;  // the largest score before there is any

// Where a lane's entries are: rows row, row + 8, ... and columns column, column + 8, ... of head h of
// batch entry b, which is number `head` of all heads.  Lanes 2 apart share columns and neighbours
// share rows, because the hardware merges reads of 16 bytes at equal addresses for just such pairs.
//
// Every part of a kernel asks again.  Addresses that the compiler kept from one part to the next
// would need more registers than there are; the empty assembly hides that they are the same.
struct Lane { int row, column, h, b; };
__device__ inline Lane this_lane()
{
    unsigned int thread = threadIdx.x, h = blockIdx.x, b = blockIdx.y;
    asm volatile("" : "+r"(thread), "+r"(h), "+r"(b));
    unsigned int row = thread / 64 * (R / 2) + thread / 32 % 2 * 4 + thread / 16 % 2 * 2
                       + thread / 2 % 2;
    unsigned int column = thread / 4 % 4 * 2 + thread % 2;
    return {(int)row, (int)column, (int)h, (int)b};
}

// ---- tiles --------------------------------------------------------------------------------------

// Where float4 number j of a row of a tile is.  Shared memory has 32 banks, and the same float4 of 8
// consecutive rows would be in the same 4 banks: the exclusive or spreads them.  It changes the last
// three bits alone, so number j + 8 is 8 places further on.
__device__ inline int place(int row, int j) { return row * SLOTS + (j ^ row % 8); }

// Where row `first` of the lane's head begins in an array (B, H, room), room being n rounded up to
// whole tiles.
__device__ inline long long start_of(const Lane &own, int first, int n)
{
    return ((long long)own.b * gridDim.x + own.h) * ((n + R - 1) / R * R) + first;
}

// An array (B, H, n, D) in any layout whose last axis has no gaps: how many floats are between one
// b, h or row and the next.
struct View { const float *data; long long b, h, row; };

// Load rows first, first + 1, ... of the block's head into a tile, and zeros beyond the last of n
// rows.  A warp loads the rows that it owns.
__device__ inline void load_tile(float4 *tile, const View &x, int first, int n)
{
    const Lane own = this_lane();
    const float *data = x.data + own.b * x.b + own.h * x.h + 4 * own.column;
    #pragma unroll 2
    for (int i = 0; i < ROWS; i++) {
        int row = own.row + 8 * i;
        #pragma unroll
        for (int j = 0; j < VECS; j++)
            if (own.column + 8 * j < W)
                tile[place(row, own.column) + 8 * j] = first + row < n
                    ? *(const float4 *)(data + (first + row) * x.row + 32 * j)
                    : make_float4(0, 0, 0, 0);
    }
}

// Store R x R numbers as a tile.
__device__ inline void store_tile(float4 *tile, const float (&c)[ROWS][COLS])
{
    const Lane own = this_lane();
    #pragma unroll
    for (int j = 0; j < COLS; j++)
        #pragma unroll
        for (int i = 0; i < ROWS; i++) {
            float4 *to = tile + place(own.row + 8 * i, own.column / 4 + 2 * j);
            ((float *)to)[own.column % 4] = c[i][j];
        }
}

// c += a bT: entry (i, j) is the product of row i of a and row j of b.
__device__ inline void add_product_transposed(float (&c)[ROWS][COLS], const float4 *a,
                                              const float4 *b)
{
    const Lane own = this_lane();
    #pragma unroll 1
    for (int d = 0; d < W; d++) {
        float4 x[ROWS];
        #pragma unroll
        for (int i = 0; i < ROWS; i++) x[i] = a[place(own.row + 8 * i, d)];
        #pragma unroll
        for (int j = 0; j < COLS; j++) {
            float4 y = b[place(own.column + 8 * j, d)];
            #pragma unroll
            for (int i = 0; i < ROWS; i++) {
                c[i][j] += x[i].x * y.x;
                c[i][j] += x[i].y * y.y;
                c[i][j] += x[i].z * y.z;
                c[i][j] += x[i].w * y.w;
            }
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

// c += a b, where a is R x R, and b has R rows of W float4s.
__device__ inline void add_product(float4 (&c)[ROWS][VECS], const float4 *a, const float4 *b)
{
    const Lane own = this_lane();
    #pragma unroll 1
    for (int k = 0; k < R / 4; k++) {  // four columns of a, four rows of b
        float4 x[ROWS];
        #pragma unroll
        for (int i = 0; i < ROWS; i++) x[i] = a[place(own.row + 8 * i, k)];
        #pragma unroll
        for (int j = 0; j < VECS; j++) {
            float4 y0 = b[place(4 * k, own.column) + 8 * j];
            float4 y1 = b[place(4 * k + 1, own.column) + 8 * j];
            float4 y2 = b[place(4 * k + 2, own.column) + 8 * j];
            float4 y3 = b[place(4 * k + 3, own.column) + 8 * j];
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

// Write factor[i] c to rows first, first + 1, ... of the block's head in an array (B, n, H, D).
__device__ inline void write(float *x, const float4 (&c)[ROWS][VECS], const float (&factor)[ROWS],
                             int first, int n)
{
    const Lane own = this_lane();
    #pragma unroll
    for (int i = 0; i < ROWS; i++) {
        int row = first + own.row + 8 * i;
        uint64 start = (((uint64)own.b * n + row) * gridDim.x + own.h) * W;
        #pragma unroll
        for (int j = 0; j < VECS; j++)
            if (row < n && own.column + 8 * j < W) {
                float4 y = c[i][j];
                float f = factor[i];
                ((float4 *)x)[start + own.column + 8 * j]
                    = make_float4(f * y.x, f * y.y, f * y.z, f * y.w);
            }
    }
}

// The largest, or the sum, of x over the 8 lanes that share rows.
__device__ inline float row_max(float x)
{
    x = fmaxf(x, __shfl_xor_sync(ALL, x, 1));
    x = fmaxf(x, __shfl_xor_sync(ALL, x, 4));
    return fmaxf(x, __shfl_xor_sync(ALL, x, 8));
}
__device__ inline float row_sum(float x)
{
    x += __shfl_xor_sync(ALL, x, 1);
    x += __shfl_xor_sync(ALL, x, 4);
    return x + __shfl_xor_sync(ALL, x, 8);
}

// ---- dropout ------------------------------------------------------------------------------------

// Draw which weights of a tile are kept: bit n of row (b, h, t) of `kept` is about key n.  A lane
// draws for its own rows and 8 keys, which are one group of the mask's entries, or parts of two.
__device__ inline void draw(unsigned int *kept, int row_words, int first_query, int first_key, int T,
                            int N, const uint64 *key, uint64 layer, uint64 row, uint64 threshold)
{
    const Lane own = this_lane();
    #pragma unroll 1
    for (int i = 0; i < ROWS; i++) {
        int t = first_query + own.row + 8 * i, n = first_key + 8 * own.column;
        if (t >= T || own.column >= R / 8) continue;
        uint64 entry = ((uint64)own.h * T + t) * N + n;
        unsigned int bits = 0;
        #pragma unroll 1
        for (int k = 0; 8 * k < entry % 8 + 8; k++)
            bits |= keep8(key, entry / 8 + k, layer, row + own.b, threshold) << 8 * k;
        unsigned char *bytes = (unsigned char *)(kept + start_of(own, t, T) * row_words);
        bytes[n / 8] = bits >> entry % 8;
    }
}

// Set to 0 what dropout drops, where rows are queries and columns are keys.
__device__ inline void drop_by_query(float (&p)[ROWS][COLS], const unsigned int *kept,
                                     int row_words, int first_query, int first_key, int T)
{
    const Lane own = this_lane();
    const unsigned int *bits = kept + start_of(own, first_query + own.row, T) * row_words
                               + first_key / 32;
    #pragma unroll
    for (int i = 0; i < ROWS; i++)
        #pragma unroll
        for (int j = 0; j < COLS; j++) {
            unsigned int word = bits[8 * i * row_words + j / 4];
            if (!(word >> (own.column + 8 * (j % 4)) & 1)) p[i][j] = 0;
        }
}

// The same where rows are keys and columns are queries.
__device__ inline void drop_by_key(float (&p)[ROWS][COLS], const unsigned int *kept,
                                   int row_words, int first_query, int first_key, int T)
{
    const Lane own = this_lane();
    const unsigned int *bits = kept + start_of(own, first_query + own.column, T) * row_words
                               + (first_key + own.row) / 32;
    #pragma unroll
    for (int j = 0; j < COLS; j++) {
        unsigned int word = bits[8 * j * row_words];
        #pragma unroll
        for (int i = 0; i < ROWS; i++)
            if (!(word >> (own.row % 32 + 8 * i) & 1)) p[i][j] = 0;
    }
}

// ---- forward ------------------------------------------------------------------------------------

extern "C" __global__ void __launch_bounds__(128, 4) flash_forward(
    const float *q, long long q_b, long long q_h, long long q_t,  // (B, H, T, D), and its strides
    const float *k, long long k_b, long long k_h, long long k_n,  // (B, H, N, D)
    const float *v, long long v_b, long long v_h, long long v_n,
    float *out,                                      // (B, T, H, D)
    float *lse,                                      // (B, H, T)
    int T, int N,
    int ahead,                                       // query t sees the keys up to t + ahead
    float to_bits,                                   // scores times this are exponents of 2
    unsigned int *kept, int row_words,               // NULL: no dropout
    const uint64 *key, uint64 layer, uint64 row, uint64 threshold, float rescale)
{
    __shared__ float4 queries[1024], keys[1024], values[1024];
    const int first = (gridDim.z - 1 - blockIdx.z) * R;  // late queries see most: they begin
    const View Q = {q, q_b, q_h, q_t}, K = {k, k_b, k_h, k_n}, V = {v, v_b, v_h, v_n};

    load_tile(queries, Q, first, T);
    float4 o[ROWS][VECS] = {};
    float m[ROWS], l[ROWS] = {};
    for (int i = 0; i < ROWS; i++) m[i] = LOWEST;
    const int n_keys = min(N, min(first + R, T) + ahead);
    for (int start = 0; start < n_keys; start += R) {
        __syncthreads();  // the values of the round before have been read
        load_tile(keys, K, start, N);
        load_tile(values, V, start, N);
        if (kept) draw(kept, row_words, first, start, T, N, key, layer, row, threshold);
        __syncthreads();
        float s[ROWS][COLS] = {};
        add_product_transposed(s, queries, keys);

        const Lane own = this_lane();
        #pragma unroll
        for (int i = 0; i < ROWS; i++) {
            int last = min(first + own.row + 8 * i + ahead, N - 1);
            float top = m[i];
            #pragma unroll
            for (int j = 0; j < COLS; j++) {
                if (start + own.column + 8 * j > last) s[i][j] = -INFINITE;
                top = fmaxf(top, s[i][j]);
            }
            top = row_max(top);
            float shrink = exp2f(to_bits * m[i] - to_bits * top);
            m[i] = top;
            l[i] *= shrink;
            #pragma unroll
            for (int j = 0; j < COLS; j++) {
                s[i][j] = exp2f(to_bits * s[i][j] - to_bits * top);
                l[i] += s[i][j];
            }
            #pragma unroll
            for (int j = 0; j < VECS; j++) {
                o[i][j].x *= shrink;
                o[i][j].y *= shrink;
                o[i][j].z *= shrink;
                o[i][j].w *= shrink;
            }
        }
        if (kept) drop_by_query(s, kept, row_words, first, start, T);
        __syncthreads();  // the keys have been read, and the weights take their place
        store_tile(keys, s);
        __syncwarp();
        add_product(o, keys, values);
    }

    const Lane own = this_lane();
    for (int i = 0; i < ROWS; i++) {
        int t = first + own.row + 8 * i;
        l[i] = row_sum(l[i]);
        if (own.column == 0)
            lse[start_of(own, t, T)] = t < T ? to_bits * m[i] + log2f(l[i]) : INFINITE;
        l[i] = rescale / l[i];
    }
    write(out, o, l, first, T);
}

// ---- backward -----------------------------------------------------------------------------------

extern "C" __global__ void __launch_bounds__(128, 3) flash_backward_query(
    const float *q, long long q_b, long long q_h, long long q_t,
    const float *k, long long k_b, long long k_h, long long k_n,
    const float *v, long long v_b, long long v_h, long long v_n,
    const float *dout, long long dout_b, long long dout_h, long long dout_t,
    const float *out, const float *lse,
    float *delta,                                    // (B, H, T)
    float *dq,                                       // (B, T, H, D)
    int T, int N, int ahead, float to_bits, float scale,
    const unsigned int *kept, int row_words, float rescale)
{
    __shared__ float4 queries[1024], douts[1024], keys[1024];
    const int first = (gridDim.z - 1 - blockIdx.z) * R;
    const View Q = {q, q_b, q_h, q_t}, K = {k, k_b, k_h, k_n}, V = {v, v_b, v_h, v_n};
    const View dOut = {dout, dout_b, dout_h, dout_t};
    const View Out = {out, (long long)T * gridDim.x * D, D, (long long)gridDim.x * D};

    load_tile(queries, Q, first, T);
    load_tile(douts, dOut, first, T);
    load_tile(keys, Out, first, T);
    __syncwarp();
    float row_lse[ROWS], row_delta[ROWS], factor[ROWS];
    {
        const Lane own = this_lane();
        for (int i = 0; i < ROWS; i++) {
            int t = first + own.row + 8 * i;
            float sum = 0;
            for (int j = 0; j < VECS; j++)
                if (own.column + 8 * j < W) {
                    float4 x = douts[place(own.row + 8 * i, own.column) + 8 * j];
                    float4 y = keys[place(own.row + 8 * i, own.column) + 8 * j];
                    sum += x.x * y.x + x.y * y.y + x.z * y.z + x.w * y.w;
                }
            row_delta[i] = row_sum(sum);
            row_lse[i] = lse[start_of(own, t, T)];
            if (own.column == 0) delta[start_of(own, t, T)] = row_delta[i];
            factor[i] = scale;
        }
    }

    float4 result[ROWS][VECS] = {};
    const int n_keys = min(N, min(first + R, T) + ahead);
    for (int start = 0; start < n_keys; start += R) {
        __syncthreads();  // the keys of the round before have been read
        load_tile(keys, V, start, N);  // at first the values
        load_tile(douts, dOut, first, T);
        __syncthreads();
        float dp[ROWS][COLS] = {}, s[ROWS][COLS] = {};
        add_product_transposed(dp, douts, keys);
        if (kept) drop_by_query(dp, kept, row_words, first, start, T);
        __syncthreads();
        load_tile(keys, K, start, N);
        __syncthreads();
        add_product_transposed(s, queries, keys);
        const Lane own = this_lane();
        #pragma unroll
        for (int i = 0; i < ROWS; i++) {
            int last = min(first + own.row + 8 * i + ahead, N - 1);
            #pragma unroll
            for (int j = 0; j < COLS; j++) {
                bool hidden = start + own.column + 8 * j > last;
                float p = exp2f(hidden ? -INFINITE : to_bits * s[i][j] - row_lse[i]);
                s[i][j] = p * (dp[i][j] * rescale - row_delta[i]);
            }
        }
        store_tile(douts, s);  // a warp reads and overwrites its own rows alone
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
    const float *lse, const float *delta,
    float *dk, float *dv,                            // (B, N, H, D)
    int T, int N, int ahead, float to_bits, float scale,
    const unsigned int *kept, int row_words, float rescale)
{
    __shared__ float4 mine[1024], queries[1024], douts[1024];
    const int first = blockIdx.z * R;
    const View Q = {q, q_b, q_h, q_t}, K = {k, k_b, k_h, k_n}, V = {v, v_b, v_h, v_n};
    const View dOut = {dout, dout_b, dout_h, dout_t};

    float4 key_result[ROWS][VECS] = {}, value_result[ROWS][VECS] = {};
    for (int start = max(0, first - ahead) / R * R; start < T; start += R) {
        __syncthreads();  // the queries of the round before have been read
        load_tile(queries, Q, start, T);
        load_tile(douts, dOut, start, T);
        load_tile(mine, V, first, N);
        __syncthreads();
        float ds[ROWS][COLS] = {}, p[ROWS][COLS] = {};
        add_product_transposed(ds, mine, douts);  // at first dp
        if (kept) drop_by_key(ds, kept, row_words, start, first, T);
        {
            const Lane own = this_lane();
            const float *deltas = delta + start_of(own, start + own.column, T);
            #pragma unroll
            for (int j = 0; j < COLS; j++)
                #pragma unroll
                for (int i = 0; i < ROWS; i++) ds[i][j] = rescale * ds[i][j] - deltas[8 * j];
        }
        __syncwarp();
        load_tile(mine, K, first, N);
        __syncwarp();
        add_product_transposed(p, mine, queries);  // at first the scores
        __syncwarp();
        {
            const Lane own = this_lane();
            const float *lses = lse + start_of(own, start + own.column, T);
            #pragma unroll
            for (int j = 0; j < COLS; j++) {
                int last = min(start + own.column + 8 * j + ahead, N - 1);
                #pragma unroll
                for (int i = 0; i < ROWS; i++) {
                    bool hidden = first + own.row + 8 * i > last;
                    p[i][j] = exp2f(hidden ? -INFINITE : to_bits * p[i][j] - lses[8 * j]);
                    ds[i][j] *= p[i][j];
                }
            }
        }
        store_tile(mine, ds);
        __syncwarp();
        add_product(key_result, mine, queries);
        __syncwarp();
        if (kept) drop_by_key(p, kept, row_words, start, first, T);
        store_tile(mine, p);
        __syncwarp();
        add_product(value_result, mine, douts);
    }
    float key_factor[ROWS], value_factor[ROWS];
    for (int i = 0; i < ROWS; i++) key_factor[i] = scale, value_factor[i] = rescale;
    write(dk, key_result, key_factor, first, N);
    write(dv, value_result, value_factor, first, N);
}
