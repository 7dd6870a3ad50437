#pragma once

// AVX2. Keys of a tile are unpacked to one row of int8 codes a position; values to pairs of positions as int16, the
// operand order of vpmaddwd.

#include <immintrin.h>

namespace turbo {

// ---- codec

inline void hadamard(__m256 (&v)[16]) {
    const __m256 n1 = _mm256_setr_ps(0.0f, -0.0f, 0.0f, -0.0f, 0.0f, -0.0f, 0.0f, -0.0f);
    const __m256 n2 = _mm256_setr_ps(0.0f, 0.0f, -0.0f, -0.0f, 0.0f, 0.0f, -0.0f, -0.0f);
    const __m256 n4 = _mm256_setr_ps(0.0f, 0.0f, 0.0f, 0.0f, -0.0f, -0.0f, -0.0f, -0.0f);
    for (int i = 0; i < 16; i++) {
        v[i] = _mm256_add_ps(_mm256_permute_ps(v[i], 0xb1), _mm256_xor_ps(v[i], n1));
        v[i] = _mm256_add_ps(_mm256_permute_ps(v[i], 0x4e), _mm256_xor_ps(v[i], n2));
        v[i] = _mm256_add_ps(_mm256_permute2f128_ps(v[i], v[i], 0x01), _mm256_xor_ps(v[i], n4));
    }
    for (int half = 1; half < 16; half *= 2) {
        for (int i = 0; i < 16; i++) {
            if (!(i & half)) {
                const __m256 a = v[i], b = v[i | half];
                v[i]        = _mm256_add_ps(a, b);
                v[i | half] = _mm256_sub_ps(a, b);
            }
        }
    }
}

inline void rotate(const float * x, float * y) {
    __m256 v[16];
    for (int i = 0; i < 16; i++) {
        v[i] = _mm256_mul_ps(_mm256_loadu_ps(x + 8*i), _mm256_loadu_ps(ggml_turbo_signs + 8*i));
    }
    hadamard(v);
    for (int i = 0; i < 16; i++) {
        _mm256_storeu_ps(y + 8*i, v[i]);
    }
}

inline void rotate_inverse(float * x) {
    __m256 v[16];
    for (int i = 0; i < 16; i++) {
        v[i] = _mm256_loadu_ps(x + 8*i);
    }
    hadamard(v);
    for (int i = 0; i < 16; i++) {
        _mm256_storeu_ps(x + 8*i, _mm256_mul_ps(v[i], _mm256_loadu_ps(ggml_turbo_signs + 8*i)));
    }
}

inline double energy(const float * y) {
    __m256d low = _mm256_setzero_pd(), high = _mm256_setzero_pd();
    for (int i = 0; i < QK_TURBO; i += 8) {
        const __m256d a = _mm256_cvtps_pd(_mm_loadu_ps(y + i)), b = _mm256_cvtps_pd(_mm_loadu_ps(y + i + 4));
        low  = _mm256_add_pd(low,  _mm256_mul_pd(a, a));
        high = _mm256_add_pd(high, _mm256_mul_pd(b, b));
    }
    double lane[4];
    _mm256_storeu_pd(lane, _mm256_add_pd(low, high));
    return (lane[0] + lane[2]) + (lane[1] + lane[3]);
}

inline void to_fixed(const float * y, float f, int16_t * v) {
    const __m256 ff = _mm256_set1_ps(f);
    for (int i = 0; i < QK_TURBO; i += 16) {
        const __m256i a = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(y + i), ff));
        const __m256i b = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(y + i + 8), ff));
        _mm256_storeu_si256((__m256i *) (v + i), _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8));
    }
}

inline int32_t sum_of(__m256i x) {
    const __m128i a = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    const __m128i b = _mm_add_epi32(a, _mm_shuffle_epi32(a, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(b, _mm_shuffle_epi32(b, 0xb1)));
}

inline int32_t search(const ggml_turbo_code & code, const int16_t * v, uint8_t * idx) {
    const int      n  = 1 << (code.bits - 1);
    const int8_t * kv = code.kv + n;
    __m256i mag[8];
    for (int i = 0; i < 8; i++) {
        mag[i] = _mm256_abs_epi16(_mm256_loadu_si256((const __m256i *) (v + 16*i)));
    }
    double  best        = -1;
    int32_t best_energy = 0;
    int     best_scale  = 0;
    int16_t thr[GGML_TURBO_MAX_MAG];
    for (int c = 0; c < GGML_TURBO_SCALES; c++) {
        ggml_turbo_thresholds(&code, c, thr);
        __m256i dots = _mm256_setzero_si256(), squares = _mm256_setzero_si256();
        for (int i = 0; i < 8; i++) {
            __m256i level = _mm256_set1_epi16(kv[0]);
            for (int t = 0; t + 1 < n; t++) {
                const __m256i above = _mm256_cmpgt_epi16(mag[i], _mm256_set1_epi16(thr[t]));
                level = _mm256_add_epi16(level, _mm256_and_si256(above, _mm256_set1_epi16((int16_t) (kv[t + 1] - kv[t]))));
            }
            dots    = _mm256_add_epi32(dots,    _mm256_madd_epi16(mag[i], level));
            squares = _mm256_add_epi32(squares, _mm256_madd_epi16(level,  level));
        }
        const int32_t dot = sum_of(dots), code_energy = sum_of(squares);
        const double  score = (double) dot*dot/code_energy;
        if (score > best) {
            best = score;
            best_energy = code_energy;
            best_scale = c;
        }
    }
    ggml_turbo_thresholds(&code, best_scale, thr);
    for (int i = 0; i < 8; i += 2) {
        __m256i m[2];
        for (int h = 0; h < 2; h++) {
            m[h] = _mm256_setzero_si256();
            for (int t = 0; t + 1 < n; t++) {
                m[h] = _mm256_sub_epi16(m[h], _mm256_cmpgt_epi16(mag[i + h], _mm256_set1_epi16(thr[t])));
            }
            // n + m above zero, n - 1 - m below: with s = 0 or -1 both are n + (m xor s)
            const __m256i s = _mm256_srai_epi16(_mm256_loadu_si256((const __m256i *) (v + 16*(i + h))), 15);
            m[h] = _mm256_add_epi16(_mm256_xor_si256(m[h], s), _mm256_set1_epi16((int16_t) n));
        }
        _mm256_storeu_si256((__m256i *) (idx + 16*i), _mm256_permute4x64_epi64(_mm256_packus_epi16(m[0], m[1]), 0xd8));
    }
    return best_energy;
}

// ---- tiles

struct KeyTile {
    alignas(32) int8_t code[TILE][QK_TURBO];
    alignas(32) float  gain[TILE];
};

// Dword c of row i: the codes of channel c at positions 2 i and 2 i + 1.
struct ValueTile {
    alignas(32) int16_t code[TILE/2][2*QK_TURBO];
    alignas(32) float   gain[TILE];
};

template <int BITS> inline void unpack(const char * row, __m256i lut, __m256i (&out)[4]) { // 128 codes
    const uint8_t * qs = (const uint8_t *) row + sizeof(uint16_t);
    const __m256i low4 = _mm256_set1_epi8(15), low2 = _mm256_set1_epi8(3), low1 = _mm256_set1_epi8(1);
    if (BITS == 4) {
        for (int i = 0; i < 2; i++) {
            const __m256i x = _mm256_loadu_si256((const __m256i *) (qs + 32*i));
            out[i]     = _mm256_shuffle_epi8(lut, _mm256_and_si256(x, low4));
            out[2 + i] = _mm256_shuffle_epi8(lut, _mm256_and_si256(_mm256_srli_epi16(x, 4), low4));
        }
        return;
    }
    const __m256i x = _mm256_loadu_si256((const __m256i *) qs);
    __m256i top = _mm256_setzero_si256();
    if (BITS == 3) {
        top = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *) (qs + 32)));
        top = _mm256_blend_epi32(top, _mm256_srli_epi16(top, 4), 0xf0);
    }
    for (int part = 0; part < 4; part++) {
        __m256i idx = _mm256_and_si256(_mm256_srli_epi16(x, 2*part), low2);
        if (BITS == 3) {
            idx = _mm256_or_si256(idx, _mm256_slli_epi16(_mm256_and_si256(_mm256_srli_epi16(top, part), low1), 2));
        }
        out[part] = _mm256_shuffle_epi8(lut, idx);
    }
}

inline __m256i table(const ggml_turbo_code & code) {
    return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *) code.kv));
}

template <int BITS> inline void load_keys(KeyTile & tile, const ggml_turbo_code & code, const char * rows, size_t stride, int n) {
    const __m256i lut = table(code);
    for (int p = 0; p < TILE; p++) {
        __m256i k[4];
        unpack<BITS>(row_at(rows, stride, p, n), lut, k);
        for (int i = 0; i < 4; i++) {
            _mm256_store_si256((__m256i *) (tile.code[p] + 32*i), k[i]);
        }
    }
    load_gains(tile.gain, rows, stride, n);
}

inline __m128i sums_of_four(__m256i a, __m256i b, __m256i c, __m256i d) {
    const __m256i s = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
    return _mm_add_epi32(_mm256_castsi256_si128(s), _mm256_extracti128_si256(s, 1));
}

template <int ROWS> inline void add_scores_of(float * S, const KeyTile & tile, const char * q, size_t q_stride) {
    const __m256i ones = _mm256_set1_epi16(1);
    for (int p = 0; p < TILE; p += 4) {
        __m256i acc[ROWS][4];
        for (int r = 0; r < ROWS; r++) {
            for (int i = 0; i < 4; i++) {
                acc[r][i] = _mm256_setzero_si256();
            }
        }
        for (int c = 0; c < QK_TURBO; c += 32) {
            for (int i = 0; i < 4; i++) {
                const __m256i k = _mm256_load_si256((const __m256i *) (tile.code[p + i] + c)), mag = _mm256_abs_epi8(k);
                for (int r = 0; r < ROWS; r++) {
                    const block_turbo_q * row = (const block_turbo_q *) (q + r*q_stride);
                    const __m256i qq = _mm256_loadu_si256((const __m256i *) (row->qs + c));
                    // |k| <= 114 and |q| <= 127: two products stay below 2^15
                    const __m256i two = _mm256_maddubs_epi16(mag, _mm256_sign_epi8(qq, k));
                    acc[r][i] = _mm256_add_epi32(acc[r][i], _mm256_madd_epi16(two, ones));
                }
            }
        }
        for (int r = 0; r < ROWS; r++) {
            const block_turbo_q * row = (const block_turbo_q *) (q + r*q_stride);
            const __m128 dot  = _mm_cvtepi32_ps(sums_of_four(acc[r][0], acc[r][1], acc[r][2], acc[r][3]));
            const __m128 unit = _mm_mul_ps(_mm_load_ps(tile.gain + p), _mm_set1_ps(row->d));
            float * s = S + r*TILE + p;
            _mm_storeu_ps(s, _mm_add_ps(_mm_loadu_ps(s), _mm_mul_ps(dot, unit)));
        }
    }
}

inline void add_scores(float * S, const KeyTile & tile, const char * q, size_t q_stride, int R) {
    int r = 0;
    for (; r + 2 <= R; r += 2) {
        add_scores_of<2>(S + r*TILE, tile, q + r*q_stride, q_stride);
    }
    if (r < R) {
        add_scores_of<1>(S + r*TILE, tile, q + r*q_stride, q_stride);
    }
}

template <int BITS> inline void load_values(ValueTile & tile, const ggml_turbo_code & code, const char * rows, size_t stride, int n) {
    const __m256i lut = table(code);
    for (int p = 0; p < TILE; p += 2) {
        __m256i a[4], b[4];
        unpack<BITS>(row_at(rows, stride, p,     n), lut, a);
        unpack<BITS>(row_at(rows, stride, p + 1, n), lut, b);
        for (int i = 0; i < 4; i++) {
            const __m256i lo = _mm256_unpacklo_epi8(a[i], b[i]), hi = _mm256_unpackhi_epi8(a[i], b[i]);
            int16_t * out = tile.code[p/2] + 64*i; // 32 channels
            _mm256_store_si256((__m256i *) (out),      _mm256_cvtepi8_epi16(_mm256_castsi256_si128(lo)));
            _mm256_store_si256((__m256i *) (out + 16), _mm256_cvtepi8_epi16(_mm256_castsi256_si128(hi)));
            _mm256_store_si256((__m256i *) (out + 32), _mm256_cvtepi8_epi16(_mm256_extracti128_si256(lo, 1)));
            _mm256_store_si256((__m256i *) (out + 48), _mm256_cvtepi8_epi16(_mm256_extracti128_si256(hi, 1)));
        }
    }
    load_gains(tile.gain, rows, stride, n);
}

template <int ROWS> inline void add_values_of(float * O, int64_t ldo, const ValueTile & tile, const int16_t (*w)[TILE], const float * unit) {
    constexpr int REGS = 8/ROWS; // accumulators of one row
    for (int c = 0; c < QK_TURBO; c += 8*REGS) {
        __m256i acc[ROWS][REGS];
        for (int r = 0; r < ROWS; r++) {
            for (int i = 0; i < REGS; i++) {
                acc[r][i] = _mm256_setzero_si256();
            }
        }
        for (int p = 0; p < TILE; p += 2) {
            __m256i weight[ROWS];
            for (int r = 0; r < ROWS; r++) {
                int32_t two;
                memcpy(&two, w[r] + p, 4);
                weight[r] = _mm256_set1_epi32(two);
            }
            for (int i = 0; i < REGS; i++) {
                const __m256i v = _mm256_load_si256((const __m256i *) (tile.code[p/2] + 2*c + 16*i));
                for (int r = 0; r < ROWS; r++) {
                    acc[r][i] = _mm256_add_epi32(acc[r][i], _mm256_madd_epi16(v, weight[r]));
                }
            }
        }
        for (int r = 0; r < ROWS; r++) {
            for (int i = 0; i < REGS; i++) {
                float * o = O + r*ldo + c + 8*i;
                _mm256_storeu_ps(o, _mm256_add_ps(_mm256_loadu_ps(o), _mm256_mul_ps(_mm256_cvtepi32_ps(acc[r][i]), _mm256_set1_ps(unit[r]))));
            }
        }
    }
}

inline void add_values(float * O, int64_t ldo, const ValueTile & tile, const float * P, int R) {
    int16_t w[2][TILE];
    float   unit[2];
    int r = 0;
    for (; r + 2 <= R; r += 2) {
        unit[0] = weights(P + r*TILE,        tile.gain, w[0]);
        unit[1] = weights(P + (r + 1)*TILE, tile.gain, w[1]);
        add_values_of<2>(O + r*ldo, ldo, tile, w, unit);
    }
    if (r < R) {
        unit[0] = weights(P + r*TILE, tile.gain, w[0]);
        add_values_of<1>(O + r*ldo, ldo, tile, w, unit);
    }
}

} // namespace turbo
