// Quantizers of the turbo types for the CPU backend: the reference's bytes, by the instruction set of the build.

#include "turbo.h"
#include "turbo-kernels.h"
#include "ggml-cpu.h"

#include <cassert>

using namespace turbo;

#ifndef GGML_TURBO_REFERENCE_CODEC

template <ggml_type TYPE, typename BLOCK> static void quantize_row(const float * x, void * vy, int64_t k) {
    assert(k % QK_TURBO == 0);
    const ggml_turbo_code & code = *ggml_turbo_code_of(TYPE);
    for (BLOCK * y = (BLOCK *) vy; k > 0; k -= QK_TURBO, x += QK_TURBO, y++) {
        float   t[QK_TURBO];
        int16_t v[QK_TURBO];
        uint8_t idx[QK_TURBO];
        rotate(x, t);
        const double e = energy(t);
        if (ggml_turbo_is_degenerate(e)) {
            ggml_turbo_pack_degenerate(TYPE, e, y);
            continue;
        }
        to_fixed(t, (float) (GGML_TURBO_FIXED*code.unit/sqrt(e/QK_TURBO)), v);
        const int32_t code_energy = search(code, v, idx);
        ggml_turbo_pack(TYPE, idx, e, code_energy, y);
    }
}

void quantize_row_turbo2(const float * x, void * y, int64_t k) {
    ggml_turbo_reference() ? quantize_row_turbo2_ref(x, y, k) : quantize_row<GGML_TYPE_TURBO2, block_turbo2>(x, y, k);
}
void quantize_row_turbo3(const float * x, void * y, int64_t k) {
    ggml_turbo_reference() ? quantize_row_turbo3_ref(x, y, k) : quantize_row<GGML_TYPE_TURBO3, block_turbo3>(x, y, k);
}
void quantize_row_turbo4(const float * x, void * y, int64_t k) {
    ggml_turbo_reference() ? quantize_row_turbo4_ref(x, y, k) : quantize_row<GGML_TYPE_TURBO4, block_turbo4>(x, y, k);
}

void quantize_row_turbo_q(const float * x, void * vy, int64_t k) {
    assert(k % QK_TURBO == 0);
    if (ggml_turbo_reference()) {
        quantize_row_turbo_q_ref(x, vy, k);
        return;
    }
    for (block_turbo_q * y = (block_turbo_q *) vy; k > 0; k -= QK_TURBO, x += QK_TURBO, y++) {
        float t[QK_TURBO], top[16] = { 0 }, total[16] = { 0 };
        rotate(x, t);
        for (int j = 0; j < QK_TURBO; j += 16) {
            for (int l = 0; l < 16; l++) {
                const float a = fabsf(t[j + l]);
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
            quantize_row_turbo_q_ref(x, y, QK_TURBO);
            continue;
        }
        int16_t v[QK_TURBO];
        to_fixed(t, peak > 0 ? 127.0f/peak : 0.0f, v);
        y->d   = peak*(0.08838834764831845f/127.0f); // 128^-1/2: the transform is not normalised
        y->sum = 0;
        for (int j = 0; j < QK_TURBO; j++) {
            y->qs[j] = (int8_t) v[j];
            y->sum  += v[j];
        }
    }
}

#else

void quantize_row_turbo2 (const float * x, void * y, int64_t k) { quantize_row_turbo2_ref (x, y, k); }
void quantize_row_turbo3 (const float * x, void * y, int64_t k) { quantize_row_turbo3_ref (x, y, k); }
void quantize_row_turbo4 (const float * x, void * y, int64_t k) { quantize_row_turbo4_ref (x, y, k); }
void quantize_row_turbo_q(const float * x, void * y, int64_t k) { quantize_row_turbo_q_ref(x, y, k); }

#endif

// One product of a key with a query. Attention has its own loops; this serves the generic path that tests compare with.
template <ggml_type TYPE, typename BLOCK> static void vec_dot(int n, float * s, const void * vx, const void * vy) {
    assert(n % QK_TURBO == 0);
    const int8_t        * kv = ggml_turbo_code_of(TYPE)->kv;
    const BLOCK         * x  = (const BLOCK *) vx;
    const block_turbo_q * y  = (const block_turbo_q *) vy;
    float sum = 0;
    for (int i = 0; i < n/QK_TURBO; i++) {
        uint8_t idx[QK_TURBO];
        int32_t dot = 0;
        ggml_turbo_unpack(TYPE, x + i, idx);
        for (int j = 0; j < QK_TURBO; j++) {
            dot += kv[idx[j]]*y[i].qs[j];
        }
        sum += dot*(y[i].d*GGML_CPU_FP16_TO_FP32(x[i].d)*GAIN_UNIT);
    }
    *s = sum;
}

void ggml_vec_dot_turbo2_q(int n, float * s, size_t, const void * x, size_t, const void * y, size_t, int nrc) {
    assert(nrc == 1);
    GGML_UNUSED(nrc);
    vec_dot<GGML_TYPE_TURBO2, block_turbo2>(n, s, x, y);
}
void ggml_vec_dot_turbo3_q(int n, float * s, size_t, const void * x, size_t, const void * y, size_t, int nrc) {
    assert(nrc == 1);
    GGML_UNUSED(nrc);
    vec_dot<GGML_TYPE_TURBO3, block_turbo3>(n, s, x, y);
}
void ggml_vec_dot_turbo4_q(int n, float * s, size_t, const void * x, size_t, const void * y, size_t, int nrc) {
    assert(nrc == 1);
    GGML_UNUSED(nrc);
    vec_dot<GGML_TYPE_TURBO4, block_turbo4>(n, s, x, y);
}
