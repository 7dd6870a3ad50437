#pragma once

// Turbo types on Metal: which operators have kernels, and what memory attention needs beside its result.
//
// Plain C: ggml-metal-device.m includes it too. The kernels are kernels/turbo.metal; what host and kernels share is
// ggml-metal-turbo-impl.h. `tqconvert metal names` reads the tables below and proves that the kernels are there.

#include "ggml-impl.h"
#include "ggml-turbo.h"

#include "ggml-metal-impl.h"
#include "ggml-metal-turbo-impl.h"

// Types that have kernels, and what may stand beside one of them as K or V.
#define GGML_METAL_TURBO_TYPES    X(TURBO2, "turbo2") X(TURBO3, "turbo3") X(TURBO4, "turbo4")
#define GGML_METAL_TURBO_PARTNERS X(F16, "f16") X(Q8_0, "q8_0")

// Head sizes of K and V: of the vector kernels, and of the tiled ones. What only the former have is attended to by them
// at any number of queries.
#define GGML_METAL_TURBO_VEC_HEADS \
    X(128, 128) X(256, 256) X(512, 512) X(256, 128) X(512, 128) X(512, 256) X(128, 256) X(128, 512) X(256, 512)
#define GGML_METAL_TURBO_HEADS \
    X(128, 128) X(256, 256) X(512, 512) X(256, 128) X(128, 256)

#define GGML_METAL_TURBO_VEC_ROWS  20 // fewer queries than this go to the vector kernels
#define GGML_METAL_TURBO_F16_ROWS  32 // from here on it pays to make K and V f16 once
#define GGML_METAL_TURBO_STOCK_ROWS  8 // queries of a threadgroup of the stock kernels; trees differ in the name that they give it
#define GGML_METAL_TURBO_WORKGROUPS 32
#define GGML_METAL_TURBO_SIMDGROUPS  4 // of a vector kernel, at most

#define GGML_METAL_TURBO_VEC_SMEM(dk, dv) TURBO_FA_VEC_SHARED(dk, dv, GGML_METAL_TURBO_SIMDGROUPS)
#define GGML_METAL_TURBO_SMEM(dk, dv)     TURBO_FA_SHARED(dk, dv)

static inline bool ggml_metal_turbo_type(enum ggml_type type) {
    return ggml_turbo_is(type) || type == GGML_TYPE_TURBO_Q;
}

// Whether an operator reads or writes one of the types. Views of a cache compute nothing and stay upstream's.
static inline bool ggml_metal_turbo_concerns(const struct ggml_tensor * op) {
    switch (op->op) {
        case GGML_OP_NONE:
        case GGML_OP_RESHAPE:
        case GGML_OP_VIEW:
        case GGML_OP_PERMUTE:
        case GGML_OP_TRANSPOSE:
            return false;
        default:
            break;
    }
    for (int i = 0; i < GGML_MAX_SRC; i++) {
        if (op->src[i] && ggml_metal_turbo_type(op->src[i]->type)) {
            return true;
        }
    }
    return ggml_metal_turbo_type(op->type);
}

// Names in kernels; NULL for types that attention has no kernel for.
static inline const char * ggml_metal_turbo_name(enum ggml_type type) {
    switch (type) {
#define X(ID, NAME) case GGML_TYPE_##ID: return NAME;
        GGML_METAL_TURBO_TYPES
        GGML_METAL_TURBO_PARTNERS
#undef X
        default: return NULL;
    }
}

static inline bool ggml_metal_turbo_vec_heads(int64_t dk, int64_t dv) {
#define X(K, V) if (dk == K && dv == V) { return true; }
    GGML_METAL_TURBO_VEC_HEADS
#undef X
    return false;
}

static inline bool ggml_metal_turbo_heads(int64_t dk, int64_t dv) {
#define X(K, V) if (dk == K && dv == V) { return true; }
    GGML_METAL_TURBO_HEADS
#undef X
    return false;
}

static inline bool ggml_metal_turbo_use_vec(const struct ggml_tensor * op) {
    return op->src[0]->ne[1] < GGML_METAL_TURBO_VEC_ROWS || !ggml_metal_turbo_heads(op->src[1]->ne[0], op->src[2]->ne[0]);
}

// Workgroups of a vector kernel that share the cache of a head. Many queries keep a GPU busy without.
static inline int32_t ggml_metal_turbo_workgroups(const struct ggml_tensor * op) {
    return op->src[0]->ne[1] < GGML_METAL_TURBO_VEC_ROWS ? GGML_METAL_TURBO_WORKGROUPS : 1;
}

static inline bool ggml_metal_turbo_to_f16(enum ggml_type type) {
    return ggml_turbo_is(type) || type == GGML_TYPE_F16;
}

// Whether K and V are made f16 and stock kernels do the attention. Those of 512 exist in newer trees only, and those of
// sizes that differ not for ours.
static inline bool ggml_metal_turbo_use_f16(const struct ggml_tensor * op) {
    return op->src[0]->ne[1] >= GGML_METAL_TURBO_F16_ROWS && op->src[1]->ne[0] <= 256 && op->src[1]->ne[0] == op->src[2]->ne[0] &&
        ggml_metal_turbo_to_f16(op->src[1]->type) && ggml_metal_turbo_to_f16(op->src[2]->type);
}

static inline bool ggml_metal_turbo_supports_attention(const struct ggml_tensor * op) {
    const struct ggml_tensor * q = op->src[0];
    const struct ggml_tensor * k = op->src[1];
    const struct ggml_tensor * v = op->src[2];
    const struct ggml_tensor * mask = op->src[3];

    if (q->type != GGML_TYPE_F32 || op->type != GGML_TYPE_F32 || q->nb[0] != sizeof(float)) {
        return false;
    }
    if (!ggml_metal_turbo_name(k->type) || !ggml_metal_turbo_name(v->type)) {
        return false;
    }
    if (k->nb[0] != ggml_type_size(k->type) || v->nb[0] != ggml_type_size(v->type)) {
        return false;
    }
    if (mask && (mask->type != GGML_TYPE_F16 || mask->ne[0] < k->ne[1] || mask->ne[1] < q->ne[1])) {
        return false;
    }
    if (k->ne[1] == 0 || k->ne[1] != v->ne[1] || k->ne[2] != v->ne[2] || k->ne[3] != v->ne[3] || q->ne[3] != k->ne[3]) {
        return false;
    }
    return ggml_metal_turbo_vec_heads(k->ne[0], v->ne[0]);
}

static inline bool ggml_metal_turbo_supports(const struct ggml_tensor * op, bool has_simdgroup_reduction, bool has_simdgroup_mm) {
    if (!has_simdgroup_reduction) {
        return false;
    }
    const struct ggml_tensor * src0 = op->src[0];

    switch (op->op) {
        case GGML_OP_SET_ROWS:
            return src0->type == GGML_TYPE_F32 && src0->nb[0] == sizeof(float) && ggml_turbo_is(op->type) &&
                (op->src[1]->type == GGML_TYPE_I32 || op->src[1]->type == GGML_TYPE_I64);
        case GGML_OP_CPY:
        case GGML_OP_DUP:
        case GGML_OP_CONT:
            if (src0->ne[0] % QK_TURBO != 0 || op->ne[0] % QK_TURBO != 0) {
                return false;
            }
            if (ggml_turbo_is(src0->type)) {
                return op->type == GGML_TYPE_F32 || op->type == GGML_TYPE_F16;
            }
            return src0->type == GGML_TYPE_F32 && ggml_turbo_is(op->type);
        case GGML_OP_GET_ROWS:
            return ggml_turbo_is(src0->type) && op->src[1]->type == GGML_TYPE_I32 && op->type == GGML_TYPE_F32;
        case GGML_OP_FLASH_ATTN_EXT:
            return has_simdgroup_mm && ggml_metal_turbo_supports_attention(op);
        default:
            return false;
    }
}

// Memory behind the result of attention, in this order. Offsets count from the end of the result.
struct ggml_metal_turbo_memory {
    size_t pad; // last cells of K, V and mask, for the stock kernels
    size_t blk; // which tiles of the mask are empty
    size_t tmp; // what workgroups leave to be summed
    size_t k;   // K and V as f16
    size_t v;
    size_t total;
};

static inline struct ggml_metal_turbo_memory ggml_metal_turbo_memory_of(const struct ggml_tensor * op) {
    const struct ggml_tensor * q = op->src[0];
    const struct ggml_tensor * k = op->src[1];
    const struct ggml_tensor * v = op->src[2];
    const struct ggml_tensor * mask = op->src[3];
    const bool f16 = ggml_metal_turbo_use_f16(op);

    const size_t n_k = (size_t) (k->ne[0]*k->ne[2]*k->ne[3]);
    const size_t n_v = (size_t) (v->ne[0]*v->ne[2]*v->ne[3]);
    const size_t n_m = mask ? (size_t) (mask->ne[1]*mask->ne[2]*mask->ne[3]) : 0;

    // the stock kernel for the last cells lays out rows by their stride: of a side that stays f16, that of the cache
    const size_t row_k = ggml_turbo_is(k->type) ? sizeof(ggml_fp16_t)*(size_t) k->ne[0] : k->nb[1];
    const size_t row_v = ggml_turbo_is(v->type) ? sizeof(ggml_fp16_t)*(size_t) v->ne[0] : v->nb[1];
    const size_t last  = (row_k + row_v)*(size_t) (k->ne[2]*k->ne[3]) + sizeof(ggml_fp16_t)*n_m;

    const int64_t rows  = (q->ne[1] + GGML_METAL_TURBO_STOCK_ROWS - 1)/GGML_METAL_TURBO_STOCK_ROWS;
    const int64_t tiles = (k->ne[1] + OP_FLASH_ATTN_EXT_NCPSG - 1)/OP_FLASH_ATTN_EXT_NCPSG;
    const int64_t n_vec = q->ne[1] < GGML_METAL_TURBO_VEC_ROWS ? q->ne[1] : GGML_METAL_TURBO_VEC_ROWS;

    struct ggml_metal_turbo_memory m;
    m.pad   = GGML_PAD(ggml_nbytes(op), 16) - ggml_nbytes(op);
    m.blk   = m.pad + (f16 ? GGML_PAD(OP_FLASH_ATTN_EXT_NCPSG*last, 16) : 0);
    m.tmp   = m.blk + (mask ? GGML_PAD((size_t) (rows*tiles*mask->ne[2]*mask->ne[3]), 32) : 0);
    // reserved for any number of queries, so that the graph of one token fits where a prompt's was
    m.k     = m.tmp + GGML_PAD(sizeof(float)*(size_t) (n_vec*q->ne[2]*q->ne[3]*GGML_METAL_TURBO_WORKGROUPS*(v->ne[0] + 2)), 16);
    m.v     = m.k   + (f16 && ggml_turbo_is(k->type) ? GGML_PAD(sizeof(ggml_fp16_t)*n_k*(size_t) k->ne[1], 16) : 0);
    m.total = m.v   + (f16 && ggml_turbo_is(v->type) ? GGML_PAD(sizeof(ggml_fp16_t)*n_v*(size_t) v->ne[1], 16) : 0);
    return m;
}

static inline size_t ggml_metal_turbo_extra(const struct ggml_tensor * op) {
    return ggml_metal_turbo_memory_of(op).total;
}
