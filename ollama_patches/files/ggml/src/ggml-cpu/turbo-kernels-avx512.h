#pragma once

// AVX-512 with VNNI. Keys and values of a tile are unpacked once into the operand order of vpdpbusd (four 8-bit
// products per 32-bit lane), so that all query rows of a KV head share the work.

#include <immintrin.h>

namespace turbo {

// ---- codec

inline __m512 butterfly(__m512 v, __m512i partner, __mmask16 upper) {
    const __m512 p = _mm512_permutexvar_ps(partner, v);
    return _mm512_mask_sub_ps(_mm512_add_ps(p, v), upper, p, v);
}

inline void hadamard(__m512 (&v)[8]) {
    const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512i p1 = _mm512_xor_si512(lane, _mm512_set1_epi32(1)), p2 = _mm512_xor_si512(lane, _mm512_set1_epi32(2));
    const __m512i p4 = _mm512_xor_si512(lane, _mm512_set1_epi32(4)), p8 = _mm512_xor_si512(lane, _mm512_set1_epi32(8));
    for (int i = 0; i < 8; i++) {
        v[i] = butterfly(butterfly(v[i], p1, 0xAAAA), p2, 0xCCCC);
        v[i] = butterfly(butterfly(v[i], p4, 0xF0F0), p8, 0xFF00);
    }
    for (int half = 1; half < 8; half *= 2) {
        for (int i = 0; i < 8; i++) {
            if (!(i & half)) {
                const __m512 a = v[i], b = v[i | half];
                v[i]        = _mm512_add_ps(a, b);
                v[i | half] = _mm512_sub_ps(a, b);
            }
        }
    }
}

inline void rotate(const float * x, float * y) {
    __m512 v[8];
    for (int i = 0; i < 8; i++) {
        v[i] = _mm512_mul_ps(_mm512_loadu_ps(x + 16*i), _mm512_loadu_ps(ggml_turbo_signs + 16*i));
    }
    hadamard(v);
    for (int i = 0; i < 8; i++) {
        _mm512_storeu_ps(y + 16*i, v[i]);
    }
}

inline void rotate_inverse(float * x) {
    __m512 v[8];
    for (int i = 0; i < 8; i++) {
        v[i] = _mm512_loadu_ps(x + 16*i);
    }
    hadamard(v);
    for (int i = 0; i < 8; i++) {
        _mm512_storeu_ps(x + 16*i, _mm512_mul_ps(v[i], _mm512_loadu_ps(ggml_turbo_signs + 16*i)));
    }
}

inline double energy(const float * y) {
    __m512d sum = _mm512_setzero_pd();
    for (int i = 0; i < QK_TURBO; i += 8) {
        const __m512d a = _mm512_cvtps_pd(_mm256_loadu_ps(y + i));
        sum = _mm512_fmadd_pd(a, a, sum);
    }
    double lane[8];
    _mm512_storeu_pd(lane, sum);
    const double a = lane[0] + lane[4], b = lane[1] + lane[5], c = lane[2] + lane[6], d = lane[3] + lane[7];
    return (a + c) + (b + d);
}

inline void to_fixed(const float * y, float f, int16_t * v) {
    for (int i = 0; i < QK_TURBO; i += 16) {
        const __m512i r = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(y + i), _mm512_set1_ps(f)));
        _mm256_storeu_si256((__m256i *) (v + i), _mm512_cvtepi32_epi16(r));
    }
}

inline int32_t search(const ggml_turbo_code & code, const int16_t * v, uint8_t * idx) {
    const int      n  = 1 << (code.bits - 1);
    const int8_t * kv = code.kv + n;
    __m512i mag[4];
    for (int i = 0; i < 4; i++) {
        mag[i] = _mm512_abs_epi16(_mm512_loadu_si512(v + 32*i));
    }
    double  best        = -1;
    int32_t best_energy = 0;
    int     best_scale  = 0;
    int16_t thr[GGML_TURBO_MAX_MAG];
    for (int c = 0; c < GGML_TURBO_SCALES; c++) {
        ggml_turbo_thresholds(&code, c, thr);
        __m512i level[4];
        for (int i = 0; i < 4; i++) {
            level[i] = _mm512_set1_epi16(kv[0]);
        }
        for (int t = 0; t + 1 < n; t++) {
            const __m512i limit = _mm512_set1_epi16(thr[t]), step = _mm512_set1_epi16((int16_t) (kv[t + 1] - kv[t]));
            for (int i = 0; i < 4; i++) {
                level[i] = _mm512_mask_add_epi16(level[i], _mm512_cmpgt_epi16_mask(mag[i], limit), level[i], step);
            }
        }
        __m512i dots = _mm512_setzero_si512(), squares = _mm512_setzero_si512();
        for (int i = 0; i < 4; i++) {
            dots    = _mm512_add_epi32(dots,    _mm512_madd_epi16(mag[i],   level[i]));
            squares = _mm512_add_epi32(squares, _mm512_madd_epi16(level[i], level[i]));
        }
        const int32_t dot = _mm512_reduce_add_epi32(dots), code_energy = _mm512_reduce_add_epi32(squares);
        const double  score = (double) dot*dot/code_energy;
        if (score > best) {
            best = score;
            best_energy = code_energy;
            best_scale = c;
        }
    }
    ggml_turbo_thresholds(&code, best_scale, thr);
    for (int i = 0; i < 4; i++) {
        __m512i m = _mm512_set1_epi16((int16_t) n);
        for (int t = 0; t + 1 < n; t++) {
            m = _mm512_mask_add_epi16(m, _mm512_cmpgt_epi16_mask(mag[i], _mm512_set1_epi16(thr[t])), m, _mm512_set1_epi16(1));
        }
        const __mmask32 negative = _mm512_movepi16_mask(_mm512_loadu_si512(v + 32*i));
        m = _mm512_mask_sub_epi16(m, negative, _mm512_set1_epi16((int16_t) (2*n - 1)), m);
        _mm256_storeu_si256((__m256i *) (idx + 32*i), _mm512_cvtepi16_epi8(m));
    }
    return best_energy;
}

// ---- tiles

// Key tile: dword g holds the codes + 128 of channels 4g..4g+3; dwords of one g for 64 positions are adjacent.
struct KeyTile {
    alignas(64) uint8_t code[TILE*QK_TURBO];
    alignas(64) float   gain[TILE];
};

// Value tile: dword c holds the codes of one channel for four positions; slots of 16 channels, see channels_in_order.
struct ValueTile {
    alignas(64) int8_t code[TILE*QK_TURBO];
    alignas(64) float  gain[TILE];
};

inline void transpose(__m512i (&r)[16]) { // 16 x 16 dwords
    __m512i t[16];
    for (int i = 0; i < 8; i++) {
        t[2*i]     = _mm512_unpacklo_epi32(r[2*i], r[2*i + 1]);
        t[2*i + 1] = _mm512_unpackhi_epi32(r[2*i], r[2*i + 1]);
    }
    for (int i = 0; i < 4; i++) {
        r[4*i]     = _mm512_unpacklo_epi64(t[4*i],     t[4*i + 2]);
        r[4*i + 1] = _mm512_unpackhi_epi64(t[4*i],     t[4*i + 2]);
        r[4*i + 2] = _mm512_unpacklo_epi64(t[4*i + 1], t[4*i + 3]);
        r[4*i + 3] = _mm512_unpackhi_epi64(t[4*i + 1], t[4*i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        t[i]      = _mm512_shuffle_i32x4(r[i],     r[4 + i],  0x88);
        t[4 + i]  = _mm512_shuffle_i32x4(r[i],     r[4 + i],  0xdd);
        t[8 + i]  = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0x88);
        t[12 + i] = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0xdd);
    }
    for (int i = 0; i < 8; i++) {
        r[i]     = _mm512_shuffle_i32x4(t[i], t[8 + i], 0x88);
        r[8 + i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0xdd);
    }
}

template <int BITS> inline __m512i load_codes(const char * row) {
    if (BITS == 4) {
        return _mm512_loadu_si512(row + sizeof(uint16_t));
    }
    return _mm512_maskz_loadu_epi32(BITS == 3 ? 0x0fff : 0x00ff, row + sizeof(uint16_t));
}

inline __m512i table(const ggml_turbo_code & code, int offset) {
    alignas(16) uint8_t t[16];
    for (int i = 0; i < 16; i++) {
        t[i] = (uint8_t) (code.kv[i] + offset);
    }
    return _mm512_broadcast_i32x4(_mm_load_si128((const __m128i *) t));
}

template <int BITS> inline void load_keys(KeyTile & tile, const ggml_turbo_code & code, const char * rows, size_t stride, int n) {
    const __m512i lut = table(code, 128), low4 = _mm512_set1_epi8(15), low2 = _mm512_set1_epi8(3), low1 = _mm512_set1_epi8(1);
    auto put = [&](int g, int p0, __m512i idx) {
        _mm512_store_si512(tile.code + (g*TILE + p0)*4, _mm512_shuffle_epi8(lut, idx));
    };
    for (int p0 = 0; p0 < TILE; p0 += 16) {
        __m512i r[16];
        for (int i = 0; i < 16; i++) {
            r[i] = load_codes<BITS>(row_at(rows, stride, p0 + i, n));
        }
        transpose(r);
        if (BITS == 4) {
            for (int w = 0; w < 16; w++) {
                put(w,      p0, _mm512_and_si512(r[w], low4));
                put(16 + w, p0, _mm512_and_si512(_mm512_srli_epi16(r[w], 4), low4));
            }
        } else {
            for (int w = 0; w < 8; w++) {
                for (int part = 0; part < 4; part++) {
                    __m512i idx = _mm512_and_si512(_mm512_srli_epi16(r[w], 2*part), low2);
                    if (BITS == 3) {
                        const __m512i top = _mm512_and_si512(_mm512_srli_epi16(r[8 + (w & 3)], part + 4*(w >> 2)), low1);
                        idx = _mm512_or_si512(idx, _mm512_slli_epi16(top, 2));
                    }
                    put(8*part + w, p0, idx);
                }
            }
        }
    }
    load_gains(tile.gain, rows, stride, n);
}

template <int ROWS> inline void add_scores_of(float * S, const KeyTile & tile, const char * q, size_t q_stride) {
    const block_turbo_q * row[ROWS];
    __m512i acc[ROWS][4];
    for (int r = 0; r < ROWS; r++) {
        row[r] = (const block_turbo_q *) (q + r*q_stride);
        const __m512i bias = _mm512_set1_epi32(-128*row[r]->sum);
        for (int i = 0; i < 4; i++) {
            acc[r][i] = bias;
        }
    }
    for (int g = 0; g < QK_TURBO/4; g++) {
        const uint8_t * k = tile.code + g*TILE*4;
        __m512i kk[4];
        for (int i = 0; i < 4; i++) {
            kk[i] = _mm512_load_si512(k + 64*i);
        }
        for (int r = 0; r < ROWS; r++) {
            int32_t four;
            memcpy(&four, row[r]->qs + 4*g, 4);
            const __m512i qq = _mm512_set1_epi32(four);
            for (int i = 0; i < 4; i++) {
                acc[r][i] = _mm512_dpbusd_epi32(acc[r][i], kk[i], qq);
            }
        }
    }
    for (int r = 0; r < ROWS; r++) {
        for (int i = 0; i < 4; i++) {
            const __m512 unit = _mm512_mul_ps(_mm512_load_ps(tile.gain + 16*i), _mm512_set1_ps(row[r]->d));
            float * s = S + r*TILE + 16*i;
            _mm512_storeu_ps(s, _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc[r][i]), unit, _mm512_loadu_ps(s)));
        }
    }
}

inline void add_scores(float * S, const KeyTile & tile, const char * q, size_t q_stride, int R) {
    int r = 0;
    for (; r + 4 <= R; r += 4) {
        add_scores_of<4>(S + r*TILE, tile, q + r*q_stride, q_stride);
    }
    for (; r + 2 <= R; r += 2) {
        add_scores_of<2>(S + r*TILE, tile, q + r*q_stride, q_stride);
    }
    if (r < R) {
        add_scores_of<1>(S + r*TILE, tile, q + r*q_stride, q_stride);
    }
}

template <int BITS> inline void load_values(ValueTile & tile, const ggml_turbo_code & code, const char * rows, size_t stride, int n) {
    const __m512i lut = table(code, 0), low4 = _mm512_set1_epi8(15), low2 = _mm512_set1_epi8(3), low1 = _mm512_set1_epi8(1);
    const __m512i pair[2] = {
        _mm512_set_epi32(2, 2, 2, 2, 2, 2, 2, 2, 0, 0, 0, 0, 0, 0, 0, 0), _mm512_set_epi32(6, 6, 6, 6, 6, 6, 6, 6, 4, 4, 4, 4, 4, 4, 4, 4),
    };
    const __m512i top_of[2] = {
        _mm512_set_epi32(5, 5, 5, 5, 1, 1, 1, 1, 4, 4, 4, 4, 0, 0, 0, 0), _mm512_set_epi32(7, 7, 7, 7, 3, 3, 3, 3, 6, 6, 6, 6, 2, 2, 2, 2),
    };
    for (int p0 = 0; p0 < TILE; p0 += 4) {
        __m512i r[4];
        for (int i = 0; i < 4; i++) {
            r[i] = load_codes<BITS>(row_at(rows, stride, p0 + i, n));
        }
        const __m512i ab_lo = _mm512_unpacklo_epi8(r[0], r[1]), ab_hi = _mm512_unpackhi_epi8(r[0], r[1]);
        const __m512i cd_lo = _mm512_unpacklo_epi8(r[2], r[3]), cd_hi = _mm512_unpackhi_epi8(r[2], r[3]);
        const __m512i x[4] = {
            _mm512_unpacklo_epi16(ab_lo, cd_lo), _mm512_unpackhi_epi16(ab_lo, cd_lo),
            _mm512_unpacklo_epi16(ab_hi, cd_hi), _mm512_unpackhi_epi16(ab_hi, cd_hi),
        };
        int8_t * out = tile.code + p0*QK_TURBO;
        for (int k = 0; k < 4; k++) {
            for (int half = 0; half < 2; half++) {
                __m512i idx;
                if (BITS == 4) {
                    idx = _mm512_and_si512(half ? _mm512_srli_epi16(x[k], 4) : x[k], low4);
                } else {
                    const __m512i low = _mm512_shuffle_i32x4(x[k], x[k], 0x44); // codes of parts 2 half and 2 half + 1
                    idx = _mm512_and_si512(_mm512_srlv_epi32(low, pair[half]), low2);
                    if (BITS == 3) {
                        const __m512i top = _mm512_shuffle_i32x4(x[k], x[k], 0xaa);
                        idx = _mm512_or_si512(idx, _mm512_slli_epi16(_mm512_and_si512(_mm512_srlv_epi32(top, top_of[half]), low1), 2));
                    }
                }
                _mm512_store_si512(out + 64*(4*half + k), _mm512_shuffle_epi8(lut, idx));
            }
        }
    }
    load_gains(tile.gain, rows, stride, n);
}

// Lane L of slot k holds the channels 16 L + 4 k ..; afterwards slot k holds 16 k ..
inline void channels_in_order(__m512 * s) {
    const __m512 a = _mm512_shuffle_f32x4(s[0], s[1], 0x44), b = _mm512_shuffle_f32x4(s[0], s[1], 0xee);
    const __m512 c = _mm512_shuffle_f32x4(s[2], s[3], 0x44), d = _mm512_shuffle_f32x4(s[2], s[3], 0xee);
    s[0] = _mm512_shuffle_f32x4(a, c, 0x88);
    s[1] = _mm512_shuffle_f32x4(a, c, 0xdd);
    s[2] = _mm512_shuffle_f32x4(b, d, 0x88);
    s[3] = _mm512_shuffle_f32x4(b, d, 0xdd);
}

inline void add_values_row(float * O, const ValueTile & tile, const float * P) {
    // weights: 7 high and 7 low bits, one byte each
    alignas(64) uint8_t high[TILE], low[TILE];
    __m512 x[4], top = _mm512_setzero_ps(), total = _mm512_setzero_ps();
    for (int i = 0; i < 4; i++) {
        const __m512 p = _mm512_loadu_ps(P + 16*i);
        x[i]  = _mm512_maskz_mul_ps(_mm512_cmp_ps_mask(p, _mm512_setzero_ps(), _CMP_NEQ_UQ), p, _mm512_load_ps(tile.gain + 16*i));
        top   = _mm512_max_ps(top, x[i]);
        total = _mm512_add_ps(total, x[i]);
    }
    const float peak = _mm512_reduce_max_ps(top);
    float unit = peak/WEIGHT_MAX;
    if (!std::isfinite(_mm512_reduce_add_ps(total))) {
        unit = NAN;
    } else if (peak <= NO_PEAK) {
        return;
    }
    const __m512 to_int = _mm512_set1_ps(WEIGHT_MAX/peak);
    for (int i = 0; i < 4; i++) {
        const __m512i w = _mm512_cvtps_epi32(_mm512_mul_ps(x[i], to_int));
        _mm_store_si128((__m128i *) (high + 16*i), _mm512_cvtepi32_epi8(_mm512_srli_epi32(w, 7)));
        _mm_store_si128((__m128i *) (low  + 16*i), _mm512_cvtepi32_epi8(_mm512_and_si512(w, _mm512_set1_epi32(127))));
    }
    __m512i hi[8], lo[8];
    for (int s = 0; s < 8; s++) {
        hi[s] = lo[s] = _mm512_setzero_si512();
    }
    for (int p0 = 0; p0 < TILE; p0 += 4) {
        int32_t four_high, four_low;
        memcpy(&four_high, high + p0, 4);
        memcpy(&four_low,  low  + p0, 4);
        const __m512i wh = _mm512_set1_epi32(four_high), wl = _mm512_set1_epi32(four_low);
        const int8_t * v = tile.code + p0*QK_TURBO;
        for (int s = 0; s < 8; s++) {
            const __m512i vv = _mm512_load_si512(v + 64*s);
            hi[s] = _mm512_dpbusd_epi32(hi[s], wh, vv);
            lo[s] = _mm512_dpbusd_epi32(lo[s], wl, vv);
        }
    }
    __m512 sum[8];
    for (int s = 0; s < 8; s++) {
        sum[s] = _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32(hi[s], 7), lo[s]));
    }
    channels_in_order(sum);
    channels_in_order(sum + 4);
    for (int s = 0; s < 8; s++) {
        _mm512_storeu_ps(O + 16*s, _mm512_fmadd_ps(sum[s], _mm512_set1_ps(unit), _mm512_loadu_ps(O + 16*s)));
    }
}

inline void add_values(float * O, int64_t ldo, const ValueTile & tile, const float * P, int R) {
    for (int r = 0; r < R; r++) {
        add_values_row(O + r*ldo, tile, P + r*TILE);
    }
}

} // namespace turbo
