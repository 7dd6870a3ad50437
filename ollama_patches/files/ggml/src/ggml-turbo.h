#pragma once

// KV-cache types turbo2, turbo3, turbo4.
//
// A block is 128 values of one head: an fp16 gain and 128 codes of 2, 3 or 4 bits. The rotation is part of
// the type, so nothing outside the quantizer and attention knows of it:
//
//   y = 128^-1/2 H S x           S: fixed signs, H: Walsh-Hadamard transform in natural order
//   x ~ S 128^-1/2 H (d kv[i])   kv: int8 codebook (Lloyd-Max for a normal distribution), d = gain / 32
//
// The bytes are defined by the reference in ggml-turbo.c; every SIMD path and the NumPy reference
// (tqconvert/turbo/codec.py) produce the same. To that end the sums are arranged so that neither the order
// of a vector unit nor a fused multiply-add can change them: the transform only adds, energies are summed in
// double over exact products, and the search runs on integers.
//
// ggml.h and the trait tables get one line each, by the macros below.

#include "ggml.h"

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define QK_TURBO 128

// qs, 2 bit codes: byte j holds the values j, j+32, j+64, j+96, low bits first.
typedef struct {
    uint16_t d; // gain: 32 times the step of the codebook, fp16
    uint8_t  qs[QK_TURBO/4];
} block_turbo2;

// qs: the low two bits, as in turbo2. qh, the third bit: byte j mod 16, bit (j / 32) + 4 ((j / 16) mod 2).
typedef struct {
    uint16_t d;
    uint8_t  qs[QK_TURBO/4];
    uint8_t  qh[QK_TURBO/8];
} block_turbo3;

// qs, 4 bit codes: byte j holds the values j (low half) and j+64.
typedef struct {
    uint16_t d;
    uint8_t  qs[QK_TURBO/2];
} block_turbo4;

// A query against which keys are multiplied: rotated, int8. Never stored in a cache.
typedef struct {
    float   d;
    int32_t sum; // of qs
    int8_t  qs[QK_TURBO];
} block_turbo_q;

#ifdef __cplusplus
#define GGML_TURBO_STATIC_ASSERT static_assert
#else
#define GGML_TURBO_STATIC_ASSERT _Static_assert
#endif
GGML_TURBO_STATIC_ASSERT(sizeof(block_turbo2)  ==  34, "turbo2: 2.125 bits per value");
GGML_TURBO_STATIC_ASSERT(sizeof(block_turbo3)  ==  50, "turbo3: 3.125 bits per value");
GGML_TURBO_STATIC_ASSERT(sizeof(block_turbo4)  ==  66, "turbo4: 4.125 bits per value");
GGML_TURBO_STATIC_ASSERT(sizeof(block_turbo_q) == 136, "turbo_q: fits 128 floats, the slot that attention has for a query");
GGML_TURBO_STATIC_ASSERT(GGML_TYPE_TURBO2 == 60 && GGML_TYPE_TURBO3 == 61 && GGML_TYPE_TURBO4 == 62 &&
                         GGML_TYPE_TURBO_Q == 63, "type ids stand in state files and never move");

static inline bool ggml_turbo_is(enum ggml_type type) {
    return type == GGML_TYPE_TURBO2 || type == GGML_TYPE_TURBO3 || type == GGML_TYPE_TURBO4;
}

// What differs between the widths.
struct ggml_turbo_code {
    int    bits;
    double unit;      // one standard deviation in steps of the codebook
    int8_t kv[16];    // 2^bits entries, ascending
};
GGML_API const struct ggml_turbo_code * ggml_turbo_code_of(enum ggml_type type);

// The codes that a block gets: fixed-point input of the search (see ggml-turbo.c).
#define GGML_TURBO_FIXED   32 // fixed-point steps in one step of the codebook
#define GGML_TURBO_GAIN    32 // the stored gain is this many times d
#define GGML_TURBO_SCALES   9 // candidates of the scale search: thresholds times .80, .85 ... 1.20
#define GGML_TURBO_MAX_MAG  8 // magnitudes of the widest codebook

// Thresholds between neighbouring magnitudes for scale candidate c, in fixed-point steps; 2^(bits-1) - 1 of them.
GGML_API void ggml_turbo_thresholds(const struct ggml_turbo_code * code, int c, int16_t * out);

GGML_API const float ggml_turbo_signs[QK_TURBO];

// H S x and S H x of blocks of 128, in place, not normalised
GGML_API void ggml_turbo_rotate        (float * x, int64_t n);
GGML_API void ggml_turbo_rotate_inverse(float * x, int64_t n);

// One block from its parts: idx has 128 code numbers; energy is the sum of squares of H S x, code_energy that of kv[idx].
GGML_API void ggml_turbo_pack  (enum ggml_type type, const uint8_t * idx, double energy, int32_t code_energy, void * block);
GGML_API void ggml_turbo_unpack(enum ggml_type type, const void * block, uint8_t * idx);
// A block for input whose energy is zero, too small for the gain, or not a number.
GGML_API void ggml_turbo_pack_degenerate(enum ggml_type type, double energy, void * block);
GGML_API bool ggml_turbo_is_degenerate(double energy);

GGML_API void quantize_row_turbo2_ref (const float * x, void * y, int64_t k);
GGML_API void quantize_row_turbo3_ref (const float * x, void * y, int64_t k);
GGML_API void quantize_row_turbo4_ref (const float * x, void * y, int64_t k);
GGML_API void quantize_row_turbo_q_ref(const float * x, void * y, int64_t k);
GGML_API void dequantize_row_turbo2(const void * x, float * y, int64_t k);
GGML_API void dequantize_row_turbo3(const void * x, float * y, int64_t k);
GGML_API void dequantize_row_turbo4(const void * x, float * y, int64_t k);
GGML_API size_t ggml_turbo_quantize(enum ggml_type type, const float * src, void * dst, int64_t nrows, int64_t n_per_row);

// ---- hooks: one line in an existing table or switch each

#define GGML_TURBO_TRAITS(TYPE, NAME, BLOCK, TO, FROM) \
    [TYPE] = { .type_name = NAME, .blck_size = QK_TURBO, .type_size = sizeof(BLOCK), .is_quantized = true, \
               .to_float = (ggml_to_float_t) TO, .from_float_ref = (ggml_from_float_t) FROM },
#define GGML_TURBO_TYPE_TRAITS \
    GGML_TURBO_TRAITS(GGML_TYPE_TURBO2,  "turbo2",  block_turbo2,  dequantize_row_turbo2, quantize_row_turbo2_ref) \
    GGML_TURBO_TRAITS(GGML_TYPE_TURBO3,  "turbo3",  block_turbo3,  dequantize_row_turbo3, quantize_row_turbo3_ref) \
    GGML_TURBO_TRAITS(GGML_TYPE_TURBO4,  "turbo4",  block_turbo4,  dequantize_row_turbo4, quantize_row_turbo4_ref) \
    GGML_TURBO_TRAITS(GGML_TYPE_TURBO_Q, "turbo_q", block_turbo_q, NULL,                  quantize_row_turbo_q_ref)

#define GGML_TURBO_QUANTIZE_CASES \
        case GGML_TYPE_TURBO2: case GGML_TYPE_TURBO3: case GGML_TYPE_TURBO4: \
            result = ggml_turbo_quantize(type, src + start, (char *) dst + start_row*row_size, nrows, n_per_row); break;

#define GGML_TURBO_VALIDATE_CASES \
        case GGML_TYPE_TURBO2: { VALIDATE_ROW_DATA_D_F16_IMPL(block_turbo2, data, nb); } break; \
        case GGML_TYPE_TURBO3: { VALIDATE_ROW_DATA_D_F16_IMPL(block_turbo3, data, nb); } break; \
        case GGML_TYPE_TURBO4: { VALIDATE_ROW_DATA_D_F16_IMPL(block_turbo4, data, nb); } break;

#ifdef __cplusplus
}
#endif
