#pragma once

// KV-cache types turbo2, turbo3, turbo4 in the CPU backend: what the hooks in ggml-cpu.c need.

#include "ggml-turbo.h"

#ifdef __cplusplus
extern "C" {
#endif

struct ggml_compute_params;

// True when the node was computed here: attention with a turbo type for K or V.
bool ggml_turbo_compute_forward(const struct ggml_compute_params * params, struct ggml_tensor * node);

// Bytes of work buffer that the node needs from n_tasks threads; 0 where this file does not compute it.
size_t ggml_turbo_work_size(const struct ggml_tensor * node, int n_tasks);

void quantize_row_turbo2 (const float * x, void * y, int64_t k);
void quantize_row_turbo3 (const float * x, void * y, int64_t k);
void quantize_row_turbo4 (const float * x, void * y, int64_t k);
void quantize_row_turbo_q(const float * x, void * y, int64_t k);
void ggml_vec_dot_turbo2_q(int n, float * s, size_t bs, const void * x, size_t bx, const void * y, size_t by, int nrc);
void ggml_vec_dot_turbo3_q(int n, float * s, size_t bs, const void * x, size_t bx, const void * y, size_t by, int nrc);
void ggml_vec_dot_turbo4_q(int n, float * s, size_t bs, const void * x, size_t bx, const void * y, size_t by, int nrc);

#define GGML_TURBO_TRAITS_CPU(TYPE, FROM, DOT) \
    [TYPE] = { .from_float = (ggml_from_float_t) FROM, .vec_dot = DOT, .vec_dot_type = GGML_TYPE_TURBO_Q, .nrows = 1 },
#define GGML_TURBO_TYPE_TRAITS_CPU \
    GGML_TURBO_TRAITS_CPU(GGML_TYPE_TURBO2,  quantize_row_turbo2,  ggml_vec_dot_turbo2_q) \
    GGML_TURBO_TRAITS_CPU(GGML_TYPE_TURBO3,  quantize_row_turbo3,  ggml_vec_dot_turbo3_q) \
    GGML_TURBO_TRAITS_CPU(GGML_TYPE_TURBO4,  quantize_row_turbo4,  ggml_vec_dot_turbo4_q) \
    GGML_TURBO_TRAITS_CPU(GGML_TYPE_TURBO_Q, quantize_row_turbo_q, NULL)

#ifdef __cplusplus
}

// True while this thread computes a node in reference mode (ggml_compute_params.use_ref): scalar code only.
bool ggml_turbo_reference();
#endif
