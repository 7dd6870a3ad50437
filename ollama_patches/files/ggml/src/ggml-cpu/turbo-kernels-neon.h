#pragma once

// AArch64 NEON, with the dot product instructions where the build has them. Tiles hold one row of int8 codes a position.

#include <arm_neon.h>

namespace turbo {

// ---- codec

inline float32x4_t negated(float32x4_t v, uint32x4_t mask) {
    return vreinterpretq_f32_u32(veorq_u32(vreinterpretq_u32_f32(v), mask));
}

inline void hadamard(float32x4_t (&v)[32]) {
    static const uint32_t odd_signs[4] = { 0, 0x80000000u, 0, 0x80000000u }, high_signs[4] = { 0, 0, 0x80000000u, 0x80000000u };
    const uint32x4_t odd = vld1q_u32(odd_signs), high = vld1q_u32(high_signs);
    for (int i = 0; i < 32; i++) {
        v[i] = vaddq_f32(vrev64q_f32(v[i]), negated(v[i], odd));
        v[i] = vaddq_f32(vextq_f32(v[i], v[i], 2), negated(v[i], high));
    }
    for (int half = 1; half < 32; half *= 2) {
        for (int i = 0; i < 32; i++) {
            if (!(i & half)) {
                const float32x4_t a = v[i], b = v[i | half];
                v[i]        = vaddq_f32(a, b);
                v[i | half] = vsubq_f32(a, b);
            }
        }
    }
}

inline void rotate(const float * x, float * y) {
    float32x4_t v[32];
    for (int i = 0; i < 32; i++) {
        v[i] = vmulq_f32(vld1q_f32(x + 4*i), vld1q_f32(ggml_turbo_signs + 4*i));
    }
    hadamard(v);
    for (int i = 0; i < 32; i++) {
        vst1q_f32(y + 4*i, v[i]);
    }
}

inline void rotate_inverse(float * x) {
    float32x4_t v[32];
    for (int i = 0; i < 32; i++) {
        v[i] = vld1q_f32(x + 4*i);
    }
    hadamard(v);
    for (int i = 0; i < 32; i++) {
        vst1q_f32(x + 4*i, vmulq_f32(v[i], vld1q_f32(ggml_turbo_signs + 4*i)));
    }
}

inline double energy(const float * y) {
    float64x2_t lane[4] = { vdupq_n_f64(0), vdupq_n_f64(0), vdupq_n_f64(0), vdupq_n_f64(0) };
    for (int i = 0; i < QK_TURBO; i += 8) {
        for (int l = 0; l < 4; l++) {
            const float64x2_t a = vcvt_f64_f32(vld1_f32(y + i + 2*l));
            lane[l] = vaddq_f64(lane[l], vmulq_f64(a, a));
        }
    }
    const float64x2_t s = vaddq_f64(vaddq_f64(lane[0], lane[2]), vaddq_f64(lane[1], lane[3]));
    return vgetq_lane_f64(s, 0) + vgetq_lane_f64(s, 1);
}

inline void to_fixed(const float * y, float f, int16_t * v) {
    for (int i = 0; i < QK_TURBO; i += 8) {
        const int32x4_t a = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(y + i), f)), b = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(y + i + 4), f));
        vst1q_s16(v + i, vcombine_s16(vmovn_s32(a), vmovn_s32(b)));
    }
}

inline int32_t search(const ggml_turbo_code & code, const int16_t * v, uint8_t * idx) {
    const int      n  = 1 << (code.bits - 1);
    const int8_t * kv = code.kv + n;
    double  best        = -1;
    int32_t best_energy = 0;
    int     best_scale  = 0;
    int16_t thr[GGML_TURBO_MAX_MAG];
    for (int c = 0; c < GGML_TURBO_SCALES; c++) {
        ggml_turbo_thresholds(&code, c, thr);
        int32x4_t dots = vdupq_n_s32(0), squares = vdupq_n_s32(0);
        for (int i = 0; i < QK_TURBO; i += 8) {
            const int16x8_t mag = vabsq_s16(vld1q_s16(v + i));
            int16x8_t level = vdupq_n_s16(kv[0]);
            for (int t = 0; t + 1 < n; t++) {
                const int16x8_t above = vreinterpretq_s16_u16(vcgtq_s16(mag, vdupq_n_s16(thr[t])));
                level = vaddq_s16(level, vandq_s16(above, vdupq_n_s16((int16_t) (kv[t + 1] - kv[t]))));
            }
            dots    = vmlal_s16(vmlal_high_s16(dots,    mag,   level), vget_low_s16(mag),   vget_low_s16(level));
            squares = vmlal_s16(vmlal_high_s16(squares, level, level), vget_low_s16(level), vget_low_s16(level));
        }
        const int32_t dot = vaddvq_s32(dots), code_energy = vaddvq_s32(squares);
        const double  score = (double) dot*dot/code_energy;
        if (score > best) {
            best = score;
            best_energy = code_energy;
            best_scale = c;
        }
    }
    ggml_turbo_thresholds(&code, best_scale, thr);
    for (int i = 0; i < QK_TURBO; i += 8) {
        const int16x8_t x = vld1q_s16(v + i), mag = vabsq_s16(x);
        int16x8_t m = vdupq_n_s16(0);
        for (int t = 0; t + 1 < n; t++) {
            m = vsubq_s16(m, vreinterpretq_s16_u16(vcgtq_s16(mag, vdupq_n_s16(thr[t]))));
        }
        // n + m above zero, n - 1 - m below: with s = 0 or -1 both are n + (m xor s)
        m = vaddq_s16(veorq_s16(m, vshrq_n_s16(x, 15)), vdupq_n_s16((int16_t) n));
        vst1_u8(idx + i, vmovn_u16(vreinterpretq_u16_s16(m)));
    }
    return best_energy;
}

// ---- tiles

struct KeyTile {
    alignas(16) int8_t code[TILE][QK_TURBO];
    alignas(16) float  gain[TILE];
};
typedef KeyTile ValueTile;

template <int BITS> inline void unpack(const char * row, int8x16_t lut, int8_t * out) {
    const uint8_t * qs = (const uint8_t *) row + sizeof(uint16_t);
    if (BITS == 4) {
        for (int i = 0; i < 4; i++) {
            const uint8x16_t x = vld1q_u8(qs + 16*i);
            vst1q_s8(out + 16*i,      vqtbl1q_s8(lut, vandq_u8(x, vdupq_n_u8(15))));
            vst1q_s8(out + 64 + 16*i, vqtbl1q_s8(lut, vshrq_n_u8(x, 4)));
        }
        return;
    }
    for (int i = 0; i < 2; i++) {
        const uint8x16_t x = vld1q_u8(qs + 16*i);
        for (int part = 0; part < 4; part++) {
            uint8x16_t idx = vandq_u8(vshlq_u8(x, vdupq_n_s8((int8_t) (-2*part))), vdupq_n_u8(3));
            if (BITS == 3) {
                const uint8x16_t top = vshlq_u8(vld1q_u8(qs + 32), vdupq_n_s8((int8_t) -(part + 4*i)));
                idx = vorrq_u8(idx, vshlq_n_u8(vandq_u8(top, vdupq_n_u8(1)), 2));
            }
            vst1q_s8(out + 32*part + 16*i, vqtbl1q_s8(lut, idx));
        }
    }
}

template <int BITS> inline void load_keys(KeyTile & tile, const ggml_turbo_code & code, const char * rows, size_t stride, int n) {
    const int8x16_t lut = vld1q_s8(code.kv);
    for (int p = 0; p < TILE; p++) {
        unpack<BITS>(row_at(rows, stride, p, n), lut, tile.code[p]);
    }
    load_gains(tile.gain, rows, stride, n);
}

template <int BITS> inline void load_values(ValueTile & tile, const ggml_turbo_code & code, const char * rows, size_t stride, int n) {
    load_keys<BITS>(tile, code, rows, stride, n);
}

inline int32x4_t add_products(int32x4_t sum, int8x16_t a, int8x16_t b) {
#if defined(__ARM_FEATURE_DOTPROD)
    return vdotq_s32(sum, a, b);
#else
    // one product each: two of them would not fit 16 bits
    sum = vpadalq_s16(sum, vmull_s8(vget_low_s8(a), vget_low_s8(b)));
    return vpadalq_s16(sum, vmull_high_s8(a, b));
#endif
}

inline void add_scores(float * S, const KeyTile & tile, const char * q, size_t q_stride, int R) {
    for (int r = 0; r < R; r++) {
        const block_turbo_q * row = (const block_turbo_q *) (q + r*q_stride);
        for (int p = 0; p < TILE; p += 4) {
            int32x4_t sum[4] = { vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0) };
            for (int c = 0; c < QK_TURBO; c += 16) {
                const int8x16_t qq = vld1q_s8(row->qs + c);
                for (int i = 0; i < 4; i++) {
                    sum[i] = add_products(sum[i], vld1q_s8(tile.code[p + i] + c), qq);
                }
            }
            const int32x4_t dot = vpaddq_s32(vpaddq_s32(sum[0], sum[1]), vpaddq_s32(sum[2], sum[3]));
            float * s = S + r*TILE + p;
            vst1q_f32(s, vmlaq_f32(vld1q_f32(s), vcvtq_f32_s32(dot), vmulq_n_f32(vld1q_f32(tile.gain + p), row->d)));
        }
    }
}

inline void add_values(float * O, int64_t ldo, const ValueTile & tile, const float * P, int R) {
    for (int r = 0; r < R; r++) {
        int16_t w[TILE];
        const float unit = weights(P + r*TILE, tile.gain, w);
        for (int c = 0; c < QK_TURBO; c += 32) {
            int32x4_t acc[8];
            for (int i = 0; i < 8; i++) {
                acc[i] = vdupq_n_s32(0);
            }
            for (int p = 0; p < TILE; p++) {
                for (int i = 0; i < 4; i++) {
                    const int16x8_t v = vmovl_s8(vld1_s8(tile.code[p] + c + 8*i));
                    acc[2*i]     = vmlal_n_s16(acc[2*i],     vget_low_s16(v),  w[p]);
                    acc[2*i + 1] = vmlal_n_s16(acc[2*i + 1], vget_high_s16(v), w[p]);
                }
            }
            for (int i = 0; i < 8; i++) {
                float * o = O + r*ldo + c + 4*i;
                vst1q_f32(o, vmlaq_n_f32(vld1q_f32(o), vcvtq_f32_s32(acc[i]), unit));
            }
        }
    }
}

} // namespace turbo
