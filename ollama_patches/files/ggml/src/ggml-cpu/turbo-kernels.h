#pragma once

// The inner loops of the turbo types, once per instruction set; chosen by the compiler's flags as in the rest of
// ggml-cpu. All of them implement, in namespace turbo:
//
//   rotate(x, y)              y = H S x, 128 values, not normalised        }
//   rotate_inverse(x)         x = S H x, in place                          }  the same bits
//   energy(y)                 sum of squares, in the reference's order      }  from every
//   to_fixed(y, f, v)         v = round(y f) as int16                       }  instruction set
//   search(code, v, idx)      the codes with the largest cosine             }
//
//   load_keys(tile, type, rows, stride, n)      codes and gains of one block column of n <= TILE positions
//   add_scores(S, tile, q, q_stride, R)         S[r][p] += q_r . k_p for R rows of TILE scores
//   load_values(tile, type, rows, stride, n)
//   add_values(O, ldo, tile, P, R)              O[r][0..127] += sum_p P[r][p] v_p, in the rotated domain
//
// Weights of values are integers below 2^14 relative to the largest of the tile, so sums are exact.

#include "ggml-turbo.h"
#include "ggml-impl.h"
#include "ggml-cpu.h"
#include "simd-mappings.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace turbo {

constexpr int   TILE = 64; // positions
constexpr int   WEIGHT_MAX = 16383;
constexpr float GAIN_UNIT  = 1.0f/GGML_TURBO_GAIN;
constexpr float NO_PEAK    = 1e-30f; // below it WEIGHT_MAX/peak leaves the floats; beside the row's largest weight it is nothing

// Row p of n; rows past the end repeat the last one, their gain is zero.
inline const char * row_at(const char * rows, size_t stride, int p, int n) {
    return rows + std::min(p, n - 1)*stride;
}

inline void load_gains(float * gain, const char * rows, size_t stride, int n) {
    ggml_fp16_t d[TILE] = { 0 };
    for (int p = 0; p < n; p++) {
        memcpy(d + p, rows + p*stride, sizeof(ggml_fp16_t));
    }
    ggml_cpu_fp16_to_fp32(d, gain, TILE);
    for (int p = 0; p < TILE; p++) {
        gain[p] *= GAIN_UNIT;
    }
}

// Integer weights of one row; returns what one unit is worth. A weight of zero hides its position's gain, whatever
// that is; anything else that is not a number makes the unit one.
inline float weights(const float * p, const float * gain, int16_t * w) {
    float x[TILE], top[16] = { 0 }, total[16] = { 0 };
    for (int i = 0; i < TILE; i += 16) {
        for (int l = 0; l < 16; l++) {
            const float a = p[i + l] == 0.0f ? 0.0f : p[i + l]*gain[i + l];
            x[i + l]  = a;
            top[l]    = top[l] > a ? top[l] : a;
            total[l] += a;
        }
    }
    float peak = 0, sum = 0;
    for (int l = 0; l < 16; l++) {
        peak = std::max(peak, top[l]);
        sum += total[l];
    }
    if (!std::isfinite(sum)) {
        std::fill(w, w + TILE, (int16_t) 0);
        return NAN;
    }
    const float to_int = peak > NO_PEAK ? WEIGHT_MAX/peak : 0.0f;
    for (int i = 0; i < TILE; i++) {
        w[i] = (int16_t) (x[i]*to_int + 0.5f);
    }
    return peak/WEIGHT_MAX;
}

} // namespace turbo

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512VNNI__)
#include "turbo-kernels-avx512.h"
#elif defined(__AVX2__)
#include "turbo-kernels-avx2.h"
#elif defined(__ARM_NEON) && defined(__aarch64__)
#include "turbo-kernels-neon.h"
#else
#include "turbo-kernels-scalar.h"
#endif
