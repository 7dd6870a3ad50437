// KV-cache types turbo2, turbo3, turbo4: tables and the scalar reference that defines the bytes.

#include "ggml-turbo.h"
#include "ggml-impl.h"

#include <assert.h>
#include <math.h>
#include <string.h>

// What a build puts into its binaries about itself; no part of the source.
#if defined(__has_include)
#if __has_include("ggml-turbo-build.h")
#include "ggml-turbo-build.h"
#endif
#endif

static const struct ggml_turbo_code codes[3] = {
    { 2, 66.2110, { -100, -30, 30, 100 } },
    { 3, 52.9337, { -114, -71, -40, -13, 13, 40, 71, 114 } },
    { 4, 38.1553, { -104, -79, -62, -48, -36, -25, -15, -5, 5, 15, 25, 36, 48, 62, 79, 104 } },
};

const struct ggml_turbo_code * ggml_turbo_code_of(enum ggml_type type) {
    GGML_ASSERT(ggml_turbo_is(type));
    return &codes[type - GGML_TYPE_TURBO2];
}

// Top bits of 128 successive splitmix64 outputs with seed 42: 1 is +1. Eight values a byte, low bit first.
#define SIGN(b, i) (((b) >> (i)) & 1 ? 1.0f : -1.0f)
#define SIGNS(b) SIGN(b, 0), SIGN(b, 1), SIGN(b, 2), SIGN(b, 3), SIGN(b, 4), SIGN(b, 5), SIGN(b, 6), SIGN(b, 7)
const float ggml_turbo_signs[QK_TURBO] = {
    SIGNS(0xa1), SIGNS(0x72), SIGNS(0xd8), SIGNS(0xfc), SIGNS(0x47), SIGNS(0x19), SIGNS(0x83), SIGNS(0x67),
    SIGNS(0xf6), SIGNS(0x2e), SIGNS(0xd2), SIGNS(0x67), SIGNS(0xd5), SIGNS(0xa1), SIGNS(0xa2), SIGNS(0x03),
};

static const float RSQRT_128 = 0.08838834764831845f;

static void hadamard(float * x) {
    for (int half = 1; half < QK_TURBO; half *= 2) {
        for (int i = 0; i < QK_TURBO; i += 2*half) {
            for (int j = i; j < i + half; j++) {
                const float a = x[j], b = x[j + half];
                x[j]        = a + b;
                x[j + half] = a - b;
            }
        }
    }
}

void ggml_turbo_rotate(float * x, int64_t n) {
    assert(n % QK_TURBO == 0);
    for (int64_t i = 0; i < n; i += QK_TURBO) {
        for (int j = 0; j < QK_TURBO; j++) {
            x[i + j] *= ggml_turbo_signs[j];
        }
        hadamard(x + i);
    }
}

void ggml_turbo_rotate_inverse(float * x, int64_t n) {
    assert(n % QK_TURBO == 0);
    for (int64_t i = 0; i < n; i += QK_TURBO) {
        hadamard(x + i);
        for (int j = 0; j < QK_TURBO; j++) {
            x[i + j] *= ggml_turbo_signs[j];
        }
    }
}

// ---- encode

void ggml_turbo_thresholds(const struct ggml_turbo_code * code, int c, int16_t * out) {
    const int     n  = 1 << (code->bits - 1);
    const int8_t * kv = code->kv + n;
    for (int i = 0; i + 1 < n; i++) {
        const int midpoint = GGML_TURBO_FIXED/2*(kv[i] + kv[i + 1]);
        out[i] = (int16_t) ((midpoint*(80 + 5*c) + 50)/100);
    }
}

bool ggml_turbo_is_degenerate(double energy) {
    // Below 1e-20 the gain is zero in fp16 whatever the codes are.
    return !(energy >= 1e-20) || isinf(energy);
}

// Sum of squares in double, eight partial sums: the order that an eight-lane unit has.
static double energy_of(const float * y) {
    double lane[8] = { 0 };
    for (int i = 0; i < QK_TURBO; i += 8) {
        for (int l = 0; l < 8; l++) {
            lane[l] += (double) y[i + l]*(double) y[i + l]; // exact, so fusing it with the sum changes nothing
        }
    }
    const double a = lane[0] + lane[4], b = lane[1] + lane[5], c = lane[2] + lane[6], d = lane[3] + lane[7];
    return (a + c) + (b + d);
}

// Codes with the largest cosine to the input among the scale candidates; returns the energy of kv[idx].
// v: the rotated block at unit variance in fixed point, |v| < 2^15.
static int32_t search(const struct ggml_turbo_code * code, const int16_t * v, uint8_t * idx) {
    const int      n  = 1 << (code->bits - 1);
    const int8_t * kv = code->kv + n; // the positive half
    double  best        = -1;
    int32_t best_energy = 0;
    int     best_scale  = 0;
    int16_t thr[GGML_TURBO_MAX_MAG];
    for (int c = 0; c < GGML_TURBO_SCALES; c++) {
        ggml_turbo_thresholds(code, c, thr);
        int32_t dot = 0, energy = 0;
        for (int j = 0; j < QK_TURBO; j++) {
            const int mag = v[j] < 0 ? -v[j] : v[j];
            int m = 0;
            for (int i = 0; i + 1 < n; i++) {
                m += mag > thr[i];
            }
            dot    += mag*kv[m];
            energy += kv[m]*kv[m];
        }
        const double score = (double) dot*dot/energy;
        if (score > best) {
            best = score;
            best_energy = energy;
            best_scale = c;
        }
    }
    ggml_turbo_thresholds(code, best_scale, thr);
    for (int j = 0; j < QK_TURBO; j++) {
        const int mag = v[j] < 0 ? -v[j] : v[j];
        int m = 0;
        for (int i = 0; i + 1 < n; i++) {
            m += mag > thr[i];
        }
        idx[j] = (uint8_t) (v[j] < 0 ? n - 1 - m : n + m);
    }
    return best_energy;
}

static uint16_t gain_of(double energy, int32_t code_energy) {
    // The norm of the block is kept: d^2 code_energy = |x|^2 = energy / 128. Beyond fp16 it saturates.
    const double gain = GGML_TURBO_GAIN*sqrt(energy/QK_TURBO/code_energy);
    return ggml_fp32_to_fp16(gain < 65504.0 ? (float) gain : 65504.0f);
}

void ggml_turbo_pack(enum ggml_type type, const uint8_t * idx, double energy, int32_t code_energy, void * block) {
    if (type == GGML_TYPE_TURBO4) {
        block_turbo4 * b = block;
        b->d = gain_of(energy, code_energy);
        for (int j = 0; j < QK_TURBO/2; j++) {
            b->qs[j] = (uint8_t) (idx[j] | idx[j + 64] << 4);
        }
        return;
    }
    // turbo3 begins like turbo2
    block_turbo3 * b = block;
    b->d = gain_of(energy, code_energy);
    for (int j = 0; j < QK_TURBO/4; j++) {
        b->qs[j] = (uint8_t) ((idx[j] & 3) | (idx[j + 32] & 3) << 2 | (idx[j + 64] & 3) << 4 | (idx[j + 96] & 3) << 6);
    }
    if (type == GGML_TYPE_TURBO3) {
        for (int j = 0; j < QK_TURBO/8; j++) {
            unsigned bits = 0;
            for (int k = 0; k < 8; k++) {
                bits |= (unsigned) (idx[16*k + j] >> 2) << ((k >> 1) | (k & 1) << 2);
            }
            b->qh[j] = (uint8_t) bits;
        }
    }
}

void ggml_turbo_unpack(enum ggml_type type, const void * block, uint8_t * idx) {
    if (type == GGML_TYPE_TURBO4) {
        const block_turbo4 * b = block;
        for (int j = 0; j < QK_TURBO/2; j++) {
            idx[j]      = b->qs[j] & 15;
            idx[j + 64] = b->qs[j] >> 4;
        }
        return;
    }
    const block_turbo3 * b = block;
    for (int j = 0; j < QK_TURBO; j++) {
        idx[j] = (b->qs[j & 31] >> 2*(j >> 5)) & 3;
    }
    if (type == GGML_TYPE_TURBO3) {
        for (int j = 0; j < QK_TURBO; j++) {
            idx[j] |= ((b->qh[j & 15] >> ((j >> 5) + 4*((j >> 4) & 1))) & 1) << 2;
        }
    }
}

void ggml_turbo_pack_degenerate(enum ggml_type type, double energy, void * block) {
    uint8_t idx[QK_TURBO];
    memset(idx, 1 << (ggml_turbo_code_of(type)->bits - 1), sizeof(idx));
    ggml_turbo_pack(type, idx, 0, 1, block);
    if (isnan(energy) || isinf(energy)) {
        *(uint16_t *) block = 0x7e00; // what was not a number stays visible
    }
}

static void quantize_row(enum ggml_type type, const float * x, void * vy, int64_t k) {
    assert(k % QK_TURBO == 0);
    const struct ggml_turbo_code * code = ggml_turbo_code_of(type);
    const size_t size = ggml_type_size(type);
    for (char * y = vy; k > 0; k -= QK_TURBO, x += QK_TURBO, y += size) {
        float   t[QK_TURBO];
        int16_t v[QK_TURBO];
        uint8_t idx[QK_TURBO];
        memcpy(t, x, sizeof(t));
        ggml_turbo_rotate(t, QK_TURBO);
        const double energy = energy_of(t);
        if (ggml_turbo_is_degenerate(energy)) {
            ggml_turbo_pack_degenerate(type, energy, y);
            continue;
        }
        const float to_fixed = (float) (GGML_TURBO_FIXED*code->unit/sqrt(energy/QK_TURBO));
        for (int j = 0; j < QK_TURBO; j++) {
            v[j] = (int16_t) lrintf(t[j]*to_fixed); // sqrt(128) unit FIXED < 2^15
        }
        const int32_t code_energy = search(code, v, idx);
        ggml_turbo_pack(type, idx, energy, code_energy, y);
    }
}

void quantize_row_turbo2_ref(const float * x, void * y, int64_t k) { quantize_row(GGML_TYPE_TURBO2, x, y, k); }
void quantize_row_turbo3_ref(const float * x, void * y, int64_t k) { quantize_row(GGML_TYPE_TURBO3, x, y, k); }
void quantize_row_turbo4_ref(const float * x, void * y, int64_t k) { quantize_row(GGML_TYPE_TURBO4, x, y, k); }

void quantize_row_turbo_q_ref(const float * x, void * vy, int64_t k) {
    assert(k % QK_TURBO == 0);
    for (block_turbo_q * y = vy; k > 0; k -= QK_TURBO, x += QK_TURBO, y++) {
        float t[QK_TURBO], peak = 0, total = 0;
        memcpy(t, x, sizeof(t));
        ggml_turbo_rotate(t, QK_TURBO);
        for (int j = 0; j < QK_TURBO; j++) {
            const float a = fabsf(t[j]);
            peak   = peak > a ? peak : a;
            total += a;
        }
        const float inverse = peak > 0 ? 127.0f/peak : 0.0f;
        y->d   = isfinite(total) ? peak*(RSQRT_128/127.0f) : NAN;
        y->sum = 0;
        for (int j = 0; j < QK_TURBO; j++) {
            const float r = t[j]*inverse;
            const int   q = r > -127.5f && r < 127.5f ? (int) lrintf(r) : 0; // peak 127/peak may lie a step above 127
            y->qs[j] = (int8_t) q;
            y->sum  += q;
        }
    }
}

size_t ggml_turbo_quantize(enum ggml_type type, const float * src, void * dst, int64_t nrows, int64_t n_per_row) {
    const size_t row_size = ggml_row_size(type, n_per_row);
    for (int64_t r = 0; r < nrows; r++) {
        quantize_row(type, src + r*n_per_row, (char *) dst + r*row_size, n_per_row);
    }
    return nrows*row_size;
}

// ---- decode

static void dequantize_row(enum ggml_type type, const void * vx, float * y, int64_t k) {
    assert(k % QK_TURBO == 0);
    const int8_t * kv = ggml_turbo_code_of(type)->kv;
    const size_t size = ggml_type_size(type);
    for (const char * x = vx; k > 0; k -= QK_TURBO, x += size, y += QK_TURBO) {
        uint8_t idx[QK_TURBO];
        ggml_turbo_unpack(type, x, idx);
        for (int j = 0; j < QK_TURBO; j++) {
            y[j] = kv[idx[j]];
        }
        ggml_turbo_rotate_inverse(y, QK_TURBO); // of integers below 2^24: exact
        const float d = ggml_fp16_to_fp32(*(const uint16_t *) x)*(RSQRT_128/GGML_TURBO_GAIN);
        for (int j = 0; j < QK_TURBO; j++) {
            y[j] *= d;
        }
    }
}

void dequantize_row_turbo2(const void * x, float * y, int64_t k) { dequantize_row(GGML_TYPE_TURBO2, x, y, k); }
void dequantize_row_turbo3(const void * x, float * y, int64_t k) { dequantize_row(GGML_TYPE_TURBO3, x, y, k); }
void dequantize_row_turbo4(const void * x, float * y, int64_t k) { dequantize_row(GGML_TYPE_TURBO4, x, y, k); }
