#pragma once

// C += A B in f32, for the side of attention that is not turbo. Vectors as wide as the build's instruction set.

#include <cstdint>

namespace turbo {

#if defined(__GNUC__)
#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif
typedef float vec_f32 __attribute__((vector_size(LANES*sizeof(float)), aligned(sizeof(float)), may_alias));
#else
constexpr int LANES = 1;
typedef float vec_f32;
#endif

template <int M, int N> inline void product_block(float * C, int64_t ldc, const float * A, int64_t lda, const float * B, int64_t ldb, int64_t k) {
    vec_f32 acc[M][N];
    for (int i = 0; i < M; i++) {
        for (int j = 0; j < N; j++) {
            acc[i][j] = *(const vec_f32 *) (C + i*ldc + j*LANES);
        }
    }
    for (int64_t t = 0; t < k; t++) {
        vec_f32 b[N];
        for (int j = 0; j < N; j++) {
            b[j] = *(const vec_f32 *) (B + t*ldb + j*LANES);
        }
        for (int i = 0; i < M; i++) {
            for (int j = 0; j < N; j++) {
                acc[i][j] += A[i*lda + t]*b[j];
            }
        }
    }
    for (int i = 0; i < M; i++) {
        for (int j = 0; j < N; j++) {
            *(vec_f32 *) (C + i*ldc + j*LANES) = acc[i][j];
        }
    }
}

template <int M> inline int64_t product_rows(float * C, int64_t ldc, const float * A, int64_t lda, const float * B, int64_t ldb, int64_t k, int64_t n) {
    int64_t j = 0;
    for (; j + 4*LANES <= n; j += 4*LANES) {
        product_block<M, 4>(C + j, ldc, A, lda, B + j, ldb, k);
    }
    for (; j + LANES <= n; j += LANES) {
        product_block<M, 1>(C + j, ldc, A, lda, B + j, ldb, k);
    }
    return j;
}

// C[m][n] += A[m][k] B[k][n]
inline void add_product(float * C, int64_t ldc, const float * A, int64_t lda, const float * B, int64_t ldb, int64_t m, int64_t k, int64_t n) {
    for (int64_t i = 0; i < m;) {
        const bool four = i + 4 <= m;
        int64_t j = four ? product_rows<4>(C + i*ldc, ldc, A + i*lda, lda, B, ldb, k, n) : product_rows<1>(C + i*ldc, ldc, A + i*lda, lda, B, ldb, k, n);
        for (const int64_t end = four ? i + 4 : i + 1; i < end; i++) {
            for (int64_t c = j; c < n; c++) {
                for (int64_t t = 0; t < k; t++) {
                    C[i*ldc + c] += A[i*lda + t]*B[t*ldb + c];
                }
            }
        }
    }
}

} // namespace turbo
