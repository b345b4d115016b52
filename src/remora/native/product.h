/* Small matrix products in float32: C[m, n] (+)= sum over k of A[m, k] B[k, n].
   A has any strides (so it may be transposed), B and C are row-major, their rows padded to a multiple of HALF. */

#define DEFINE_TILE(name, type, width)                                                                             \
    INLINE void name(const int rows, const int vecs, int64_t K, const float *A, int64_t row_A, int64_t col_A,      \
                     const float *B, int64_t row_B, float *C, int64_t row_C, int add) {                            \
        type sum[8][2];                                                                                            \
        _Pragma("GCC unroll 8") for (int i = 0; i < rows; i++)                                                     \
            _Pragma("GCC unroll 2") for (int j = 0; j < vecs; j++)                                                 \
                sum[i][j] = add ? *(const type *)(C + i * row_C + j * width) : (type){0};                          \
        for (int64_t k = 0; k < K; k++) {                                                                          \
            type b[2];                                                                                             \
            _Pragma("GCC unroll 2") for (int j = 0; j < vecs; j++) b[j] =                                          \
                *(const type *)(B + k * row_B + j * width);                                                        \
            _Pragma("GCC unroll 8") for (int i = 0; i < rows; i++) {                                               \
                float a = A[i * row_A + k * col_A];                                                                \
                _Pragma("GCC unroll 2") for (int j = 0; j < vecs; j++) sum[i][j] += a * b[j];                      \
            }                                                                                                      \
        }                                                                                                          \
        _Pragma("GCC unroll 8") for (int i = 0; i < rows; i++)                                                     \
            _Pragma("GCC unroll 2") for (int j = 0; j < vecs; j++) *(type *)(C + i * row_C + j * width) =          \
                sum[i][j];                                                                                         \
    }

DEFINE_TILE(tile, vec, WIDTH)
DEFINE_TILE(half_tile, half_vec, HALF)

#define ROWS_OF_TILES(tile, rows, vecs)                                                                            \
    for (; m + rows <= M; m += rows)                                                                               \
        tile(rows, vecs, K, A + m * row_A, row_A, col_A, B + n, row_B, C + m * row_C + n, row_C, add);

static void product(int64_t M, int64_t N, int64_t K, const float *A, int64_t row_A, int64_t col_A, const float *B,
                    int64_t row_B, float *C, int64_t row_C, int add) {
    int64_t n = 0;
    for (; n + 2 * WIDTH <= N; n += 2 * WIDTH) {
        int64_t m = 0;
        ROWS_OF_TILES(tile, 6, 2)
        ROWS_OF_TILES(tile, 2, 2)
        ROWS_OF_TILES(tile, 1, 2)
    }
    for (; n + WIDTH <= N; n += WIDTH) {
        int64_t m = 0;
        ROWS_OF_TILES(tile, 8, 1)
        ROWS_OF_TILES(tile, 4, 1)
        ROWS_OF_TILES(tile, 1, 1)
    }
    for (; n < N; n += HALF) {
        int64_t m = 0;
        ROWS_OF_TILES(half_tile, 8, 1)
        ROWS_OF_TILES(half_tile, 4, 1)
        ROWS_OF_TILES(half_tile, 1, 1)
    }
}
