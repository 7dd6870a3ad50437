#pragma once

// What the host and the turbo kernels agree on: function constants, arguments, threadgroup memory.
// Kernels of existing operators take the ggml_metal_kargs_* of ggml-metal-impl.h.

// Function constants of both attention kernels. Indices below 2200 belong to ggml.
#define FC_TURBO 2200

#define FC_TURBO_HAS_MASK  (FC_TURBO + 0) // bool
#define FC_TURBO_HAS_SINKS (FC_TURBO + 1) // bool
#define FC_TURBO_HAS_BIAS  (FC_TURBO + 2) // bool: ALiBi, max_bias != 0
#define FC_TURBO_HAS_SCAP  (FC_TURBO + 3) // bool: logit_softcap != 0
#define FC_TURBO_NWG       (FC_TURBO + 4) // int32: workgroups that share the cache of a head (vec)

// Tiled attention: query rows of a threadgroup, its simdgroups, positions of a step.
#define TURBO_FA_ROWS       8
#define TURBO_FA_SIMDGROUPS 4
#define TURBO_FA_POSITIONS  32

// Bytes of dynamic threadgroup memory. Multiples of 16, at most 32 KiB for the head dimensions that have kernels.
#define TURBO_MAX(a, b) ((a) > (b) ? (a) : (b))
#define TURBO_PAD16(n)  (((n) + 15)/16*16)
#define TURBO_FA_VEC_SHARED(dk, dv, nsg) TURBO_PAD16(4*(32 + TURBO_MAX((dk), (nsg)*(dv)) + 2*(nsg)))
#define TURBO_FA_SHARED(dk, dv) \
    TURBO_PAD16(4*(32 + 64 + (TURBO_FA_ROWS + TURBO_FA_ROWS*TURBO_FA_POSITIONS/128)*TURBO_MAX((dk), (dv))) + 2*128*TURBO_FA_POSITIONS)

// kernel_turbo_wht_f32, kernel_turbo_wht_inv_f32: contiguous blocks of 128 floats.
typedef struct {
    int32_t n_blocks;
} ggml_metal_kargs_turbo_wht;
