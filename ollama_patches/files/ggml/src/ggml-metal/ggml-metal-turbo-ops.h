#pragma once

// Launches of the turbo kernels. Included by ggml-metal-ops.cpp, whose operators and encoder it uses.

#include "ggml-metal-turbo.h"

#include <initializer_list>

// ---- pipelines

static ggml_metal_pipeline_with_params ggml_metal_library_get_pipeline_turbo(ggml_metal_library_t lib, const char * name) {
    ggml_metal_pipeline_with_params res = ggml_metal_library_get_pipeline(lib, name);
    if (!res.pipeline) {
        res = ggml_metal_library_compile_pipeline(lib, name, name, nullptr);
    }
    return res;
}

static ggml_metal_pipeline_with_params ggml_metal_library_get_pipeline_turbo_set_rows(ggml_metal_library_t lib, const ggml_tensor * op) {
    char name[256];
    snprintf(name, sizeof(name), "kernel_set_rows_f32_%s_%s", ggml_type_name(op->src[1]->type), ggml_type_name(op->type));
    return ggml_metal_library_get_pipeline_turbo(lib, name);
}

static ggml_metal_pipeline_with_params ggml_metal_library_get_pipeline_turbo_cpy(ggml_metal_library_t lib, const ggml_tensor * op) {
    char name[256];
    snprintf(name, sizeof(name), "kernel_cpy_%s_%s", ggml_type_name(op->src[0]->type), ggml_type_name(op->type));
    return ggml_metal_library_get_pipeline_turbo(lib, name);
}

static ggml_metal_pipeline_with_params ggml_metal_library_get_pipeline_turbo_get_rows(ggml_metal_library_t lib, const ggml_tensor * op) {
    char name[256];
    snprintf(name, sizeof(name), "kernel_get_rows_%s", ggml_type_name(op->src[0]->type));
    return ggml_metal_library_get_pipeline_turbo(lib, name);
}

static ggml_metal_pipeline_with_params ggml_metal_library_get_pipeline_turbo_kv_f16(ggml_metal_library_t lib, ggml_type type) {
    char name[256];
    snprintf(name, sizeof(name), "kernel_flash_attn_ext_kv_%s_f16", ggml_type_name(type));
    return ggml_metal_library_get_pipeline_turbo(lib, name);
}

// What an attention is about: its tensors, its options, its buffers.
struct ggml_metal_turbo_fa {
    const ggml_tensor * op;
    const ggml_tensor * q;
    const ggml_tensor * k;
    const ggml_tensor * v;
    const ggml_tensor * mask;

    float scale, max_bias, softcap;
    bool has_mask, has_sinks, has_bias, has_scap;

    ggml_metal_buffer_id bid_q, bid_k, bid_v, bid_mask, bid_sinks, bid_dst;
    ggml_metal_turbo_memory at;

    // memory behind the result
    ggml_metal_buffer_id behind(size_t offset) const {
        ggml_metal_buffer_id bid = bid_dst;
        bid.offs += ggml_nbytes(op) + offset;
        return bid;
    }
};

static ggml_metal_turbo_fa ggml_metal_turbo_fa_of(const ggml_tensor * op) {
    ggml_metal_turbo_fa fa = {};

    fa.op   = op;
    fa.q    = op->src[0];
    fa.k    = op->src[1];
    fa.v    = op->src[2];
    fa.mask = op->src[3];

    memcpy(&fa.scale,    (const float *) op->op_params + 0, sizeof(float));
    memcpy(&fa.max_bias, (const float *) op->op_params + 1, sizeof(float));
    memcpy(&fa.softcap,  (const float *) op->op_params + 2, sizeof(float));

    fa.has_mask  = op->src[3] != nullptr;
    fa.has_sinks = op->src[4] != nullptr;
    fa.has_bias  = fa.max_bias != 0.0f;
    fa.has_scap  = fa.softcap  != 0.0f;

    // something must be bound, whether it is read or not
    fa.bid_q     = ggml_metal_get_buffer_id(fa.q);
    fa.bid_k     = ggml_metal_get_buffer_id(fa.k);
    fa.bid_v     = ggml_metal_get_buffer_id(fa.v);
    fa.bid_mask  = fa.has_mask  ? ggml_metal_get_buffer_id(op->src[3]) : fa.bid_q;
    fa.bid_sinks = fa.has_sinks ? ggml_metal_get_buffer_id(op->src[4]) : fa.bid_q;
    fa.bid_dst   = ggml_metal_get_buffer_id(op);
    fa.at        = ggml_metal_turbo_memory_of(op);

    return fa;
}

// Our kernels: the vector one for nwg > 0, else the tiled one.
static ggml_metal_pipeline_with_params ggml_metal_library_get_pipeline_turbo_fa(
        ggml_metal_library_t lib, const ggml_metal_turbo_fa & fa, int32_t nwg) {
    char base[256];
    char name[256];
    const char * form = nwg > 0 ? "vec_" : "";

    snprintf(base, sizeof(base), "kernel_flash_attn_ext_%sk%s_v%s_dk%d_dv%d", form,
            ggml_metal_turbo_name(fa.k->type), ggml_metal_turbo_name(fa.v->type), (int) fa.k->ne[0], (int) fa.v->ne[0]);
    snprintf(name, sizeof(name), "%s_mask=%d_sinks=%d_bias=%d_scap=%d_nwg=%d", base,
            fa.has_mask, fa.has_sinks, fa.has_bias, fa.has_scap, nwg);

    ggml_metal_pipeline_with_params res = ggml_metal_library_get_pipeline(lib, name);
    if (!res.pipeline) {
        ggml_metal_cv_t cv = ggml_metal_cv_init();
        ggml_metal_cv_set_bool (cv, fa.has_mask,  FC_TURBO_HAS_MASK);
        ggml_metal_cv_set_bool (cv, fa.has_sinks, FC_TURBO_HAS_SINKS);
        ggml_metal_cv_set_bool (cv, fa.has_bias,  FC_TURBO_HAS_BIAS);
        ggml_metal_cv_set_bool (cv, fa.has_scap,  FC_TURBO_HAS_SCAP);
        ggml_metal_cv_set_int32(cv, nwg,          FC_TURBO_NWG);
        res = ggml_metal_library_compile_pipeline(lib, base, name, cv);
        ggml_metal_cv_free(cv);
    }
    return res;
}

// The stock kernels for f16. Their own function takes other arguments in each generation of llama.cpp.
static ggml_metal_pipeline_with_params ggml_metal_library_get_pipeline_turbo_stock(
        ggml_metal_library_t lib, const ggml_metal_turbo_fa & fa, bool has_kvpad, int32_t ns10, int32_t ns20, int32_t nsg) {
    char base[256];
    char name[256];
    const bool bc_mask = fa.has_mask && fa.mask->ne[1] % 8 != 0;

    snprintf(base, sizeof(base), "kernel_flash_attn_ext_f16_dk%d_dv%d", (int) fa.k->ne[0], (int) fa.v->ne[0]);
    snprintf(name, sizeof(name), "%s_turbo_mask=%d_sinks=%d_bias=%d_scap=%d_kvpad=%d_bcm=%d_ns10=%d_ns20=%d_nsg=%d", base,
            fa.has_mask, fa.has_sinks, fa.has_bias, fa.has_scap, has_kvpad, bc_mask, ns10, ns20, nsg);

    ggml_metal_pipeline_with_params res = ggml_metal_library_get_pipeline(lib, name);
    if (!res.pipeline) {
        ggml_metal_cv_t cv = ggml_metal_cv_init();
        ggml_metal_cv_set_bool (cv, fa.has_mask,  FC_FLASH_ATTN_EXT + 0);
        ggml_metal_cv_set_bool (cv, fa.has_sinks, FC_FLASH_ATTN_EXT + 1);
        ggml_metal_cv_set_bool (cv, fa.has_bias,  FC_FLASH_ATTN_EXT + 2);
        ggml_metal_cv_set_bool (cv, fa.has_scap,  FC_FLASH_ATTN_EXT + 3);
        ggml_metal_cv_set_bool (cv, has_kvpad,     FC_FLASH_ATTN_EXT + 4);
        ggml_metal_cv_set_bool (cv, bc_mask,       FC_FLASH_ATTN_EXT + 10);
        ggml_metal_cv_set_int32(cv, ns10,          FC_FLASH_ATTN_EXT + 20);
        ggml_metal_cv_set_int32(cv, ns20,          FC_FLASH_ATTN_EXT + 21);
        ggml_metal_cv_set_int32(cv, nsg,           FC_FLASH_ATTN_EXT + 22);
        res = ggml_metal_library_compile_pipeline(lib, base, name, cv);
        ggml_metal_cv_free(cv);
    }
    return res;
}

// Simdgroups of a threadgroup for that many blocks, each of which takes one.
static int ggml_metal_turbo_simdgroups(ggml_metal_pipeline_with_params pipeline, int64_t n_blocks) {
    const int most = std::max(1, std::min(8, ggml_metal_pipeline_max_theads_per_threadgroup(pipeline)/32));
    return (int) std::max<int64_t>(1, std::min<int64_t>(most, n_blocks));
}

// ---- encoding

// What every launch begins with: the pipeline, its arguments at 0, its buffers from 1 on. `tqconvert metal names` knows it.
template <typename args_t>
static void ggml_metal_encoder_turbo_bind(
        ggml_metal_encoder_t enc, ggml_metal_pipeline_with_params pipeline, args_t & args, std::initializer_list<ggml_metal_buffer_id> buffers) {
    ggml_metal_encoder_set_pipeline(enc, pipeline);
    ggml_metal_encoder_set_bytes   (enc, &args, sizeof(args), 0);
    int index = 1;
    for (const ggml_metal_buffer_id & buffer : buffers) {
        ggml_metal_encoder_set_buffer(enc, buffer, index++);
    }
}

// ---- rows

static int ggml_metal_op_turbo_set_rows(ggml_metal_op_t ctx, ggml_tensor * op) {
    ggml_metal_encoder_t enc = ctx->enc;

    GGML_TENSOR_LOCALS( int32_t, ne0, op->src[0], ne);
    GGML_TENSOR_LOCALS(uint64_t, nb0, op->src[0], nb);
    GGML_TENSOR_LOCALS( int32_t, ne1, op->src[1], ne);
    GGML_TENSOR_LOCALS(uint64_t, nb1, op->src[1], nb);
    GGML_TENSOR_LOCALS(uint64_t, nb,  op,         nb);

    auto pipeline = ggml_metal_library_get_pipeline_turbo_set_rows(ctx->lib, op);

    ggml_metal_kargs_set_rows args = {};
    args.nk0  = ne00/QK_TURBO;
    args.ne01 = ne01;
    args.nb01 = nb01;
    args.nb02 = nb02;
    args.nb03 = nb03;
    args.ne11 = ne11;
    args.ne12 = ne12;
    args.nb10 = nb10;
    args.nb11 = nb11;
    args.nb12 = nb12;
    args.nb1  = nb1;
    args.nb2  = nb2;
    args.nb3  = nb3;

    ggml_metal_encoder_turbo_bind(enc, pipeline, args, { ggml_metal_get_buffer_id(op->src[0]), ggml_metal_get_buffer_id(op->src[1]), ggml_metal_get_buffer_id(op) });

    // the second dimension of a threadgroup counts its rows; a token alone has one
    const int nsg = ggml_metal_turbo_simdgroups(pipeline, (int64_t) args.nk0*ne01);
    const int nr  = std::min(nsg, ne01);

    ggml_metal_encoder_dispatch_threadgroups(enc, (ne01 + nr - 1)/nr, ne02, ne03, 32*(nsg/nr), nr, 1);

    return 1;
}

static int ggml_metal_op_turbo_cpy(ggml_metal_op_t ctx, ggml_tensor * op) {
    ggml_metal_encoder_t enc = ctx->enc;

    GGML_TENSOR_LOCALS( int32_t, ne0, op->src[0], ne);
    GGML_TENSOR_LOCALS(uint64_t, nb0, op->src[0], nb);
    GGML_TENSOR_LOCALS( int32_t, ne,  op,         ne);
    GGML_TENSOR_LOCALS(uint64_t, nb,  op,         nb);

    auto pipeline = ggml_metal_library_get_pipeline_turbo_cpy(ctx->lib, op);

    const int n_blocks = ne00/QK_TURBO;

    ggml_metal_kargs_cpy args = {};
    args.nk0  = n_blocks;
    args.ne00 = ne00;
    args.ne01 = ne01;
    args.ne02 = ne02;
    args.ne03 = ne03;
    args.nb00 = nb00;
    args.nb01 = nb01;
    args.nb02 = nb02;
    args.nb03 = nb03;
    args.ne0  = ne0;
    args.ne1  = ne1;
    args.ne2  = ne2;
    args.ne3  = ne3;
    args.nb0  = nb0;
    args.nb1  = nb1;
    args.nb2  = nb2;
    args.nb3  = nb3;

    ggml_metal_encoder_turbo_bind(enc, pipeline, args, { ggml_metal_get_buffer_id(op->src[0]), ggml_metal_get_buffer_id(op) });

    ggml_metal_encoder_dispatch_threadgroups(enc, ne01, ne02, ne03, 32*ggml_metal_turbo_simdgroups(pipeline, n_blocks), 1, 1);

    return 1;
}

static int ggml_metal_op_turbo_get_rows(ggml_metal_op_t ctx, ggml_tensor * op) {
    ggml_metal_encoder_t enc = ctx->enc;

    GGML_TENSOR_LOCALS( int32_t, ne0, op->src[0], ne);
    GGML_TENSOR_LOCALS(uint64_t, nb0, op->src[0], nb);
    GGML_TENSOR_LOCALS( int32_t, ne1, op->src[1], ne);
    GGML_TENSOR_LOCALS(uint64_t, nb1, op->src[1], nb);
    GGML_TENSOR_LOCALS(uint64_t, nb,  op,         nb);

    auto pipeline = ggml_metal_library_get_pipeline_turbo_get_rows(ctx->lib, op);

    ggml_metal_kargs_get_rows args = {};
    args.ne00t = ne00/16;
    args.ne00  = ne00;
    args.nb01  = nb01;
    args.nb02  = nb02;
    args.nb03  = nb03;
    args.ne10  = ne10;
    args.nb10  = nb10;
    args.nb11  = nb11;
    args.nb12  = nb12;
    args.nb1   = nb1;
    args.nb2   = nb2;
    args.nb3   = nb3;

    ggml_metal_encoder_turbo_bind(enc, pipeline, args, { ggml_metal_get_buffer_id(op->src[0]), ggml_metal_get_buffer_id(op->src[1]), ggml_metal_get_buffer_id(op) });

    ggml_metal_encoder_dispatch_threadgroups(enc, ne10, ne11, ne12, 32*ggml_metal_turbo_simdgroups(pipeline, ne00/QK_TURBO), 1, 1);

    return 1;
}

// ---- attention

// K or V as contiguous f16; returns its strides in nb.
static void ggml_metal_op_turbo_kv_f16(ggml_metal_op_t ctx, const ggml_tensor * t, ggml_metal_buffer_id bid_dst, uint64_t * nb) {
    ggml_metal_encoder_t enc = ctx->enc;

    auto pipeline = ggml_metal_library_get_pipeline_turbo_kv_f16(ctx->lib, t->type);

    const int64_t n_blocks = ggml_nelements(t)/QK_TURBO;
    GGML_ASSERT(n_blocks <= INT32_MAX);

    ggml_metal_kargs_flash_attn_ext_kv_f16 args = {};
    args.ne0     = (int32_t) t->ne[0];
    args.ne1     = (int32_t) t->ne[1];
    args.ne2     = (int32_t) t->ne[2];
    args.ne3     = (int32_t) t->ne[3];
    args.nb0     = t->nb[0];
    args.nb1     = t->nb[1];
    args.nb2     = t->nb[2];
    args.nb3     = t->nb[3];
    args.nblocks = (int32_t) n_blocks;

    ggml_metal_encoder_turbo_bind(enc, pipeline, args, { ggml_metal_get_buffer_id(t), bid_dst });

    // a threadgroup takes as many blocks as it has threads
    const int nth = std::max(32, std::min(256, ggml_metal_pipeline_max_theads_per_threadgroup(pipeline))/32*32);

    ggml_metal_encoder_dispatch_threadgroups(enc, (int) ((n_blocks + nth - 1)/nth), 1, 1, nth, 1, 1);

    nb[0] = sizeof(ggml_fp16_t);
    for (int i = 1; i < 4; i++) {
        nb[i] = nb[i - 1]*t->ne[i - 1];
    }
}

// Which tiles of the mask are empty; the tiled kernels skip them. Returns where that is written.
static ggml_metal_buffer_id ggml_metal_op_turbo_blk(ggml_metal_op_t ctx, const ggml_metal_turbo_fa & fa) {
    ggml_metal_encoder_t enc = ctx->enc;

    const ggml_metal_buffer_id bid_blk = fa.behind(fa.at.blk);
    if (!fa.has_mask) {
        return bid_blk;
    }

    auto pipeline = ggml_metal_library_get_pipeline_flash_attn_ext_blk(ctx->lib, fa.op, GGML_METAL_TURBO_STOCK_ROWS, OP_FLASH_ATTN_EXT_NCPSG);

    ggml_metal_kargs_flash_attn_ext_blk args = {};
    args.ne01 = (int32_t) fa.q->ne[1];
    args.ne30 = (int32_t) fa.k->ne[1]; // a mask may be longer: attention counts the tiles of the cache
    args.ne31 = (int32_t) fa.mask->ne[1];
    args.ne32 = (int32_t) fa.mask->ne[2];
    args.ne33 = (int32_t) fa.mask->ne[3];
    args.nb31 = fa.mask->nb[1];
    args.nb32 = fa.mask->nb[2];
    args.nb33 = fa.mask->nb[3];

    ggml_metal_encoder_turbo_bind(enc, pipeline, args, { fa.bid_mask, bid_blk });

    const int n_rows  = (args.ne01 + GGML_METAL_TURBO_STOCK_ROWS - 1)/GGML_METAL_TURBO_STOCK_ROWS;
    const int n_tiles = (args.ne30 + OP_FLASH_ATTN_EXT_NCPSG - 1)/OP_FLASH_ATTN_EXT_NCPSG;

    ggml_metal_encoder_dispatch_threadgroups(enc, n_tiles, n_rows, args.ne32*args.ne33, 32, 1, 1);

    return bid_blk;
}

// The arguments that all attention kernels have, in the fields that all their structs have. K and V may have been copied.
template <typename args_t>
static void ggml_metal_turbo_fa_args(args_t & args, const ggml_metal_turbo_fa & fa, const uint64_t * nbk, const uint64_t * nbv) {
    const uint32_t n_head      = (uint32_t) fa.q->ne[2];
    const  int32_t n_head_log2 = 1u << (uint32_t) floorf(log2f((float) n_head));

    args.ne01    = (int32_t) fa.q->ne[1];
    args.ne02    = (int32_t) fa.q->ne[2];
    args.ne03    = (int32_t) fa.q->ne[3];
    args.nb01    = fa.q->nb[1];
    args.nb02    = fa.q->nb[2];
    args.nb03    = fa.q->nb[3];
    args.ne11    = (int32_t) fa.k->ne[1];
    args.ne_12_2 = (int32_t) fa.k->ne[2];
    args.ne_12_3 = (int32_t) fa.k->ne[3];
    args.ns10    = (int32_t) (nbk[1]/nbk[0]);
    args.nb11    = nbk[1];
    args.nb12    = nbk[2];
    args.nb13    = nbk[3];
    args.ns20    = (int32_t) (nbv[1]/nbv[0]);
    args.nb21    = nbv[1];
    args.nb22    = nbv[2];
    args.nb23    = nbv[3];
    args.ne31    = fa.mask ? (int32_t) fa.mask->ne[1] : 0;
    args.ne32    = fa.mask ? (int32_t) fa.mask->ne[2] : 1; // divisors, even where there is no mask to find a row of
    args.ne33    = fa.mask ? (int32_t) fa.mask->ne[3] : 1;
    args.nb31    = fa.mask ? fa.mask->nb[1] : 0;
    args.nb32    = fa.mask ? fa.mask->nb[2] : 0;
    args.nb33    = fa.mask ? fa.mask->nb[3] : 0;
    args.ne1     = (int32_t) fa.op->ne[1];
    args.ne2     = (int32_t) fa.op->ne[2];
    args.ne3     = (int32_t) fa.op->ne[3];
    args.scale   = fa.has_scap ? fa.scale/fa.softcap : fa.scale;
    args.max_bias      = fa.max_bias;
    args.m0            = powf(2.0f, -fa.max_bias/n_head_log2);
    args.m1            = powf(2.0f, -fa.max_bias/2.0f/n_head_log2);
    args.n_head_log2   = n_head_log2;
    args.logit_softcap = fa.softcap;
}

static void ggml_metal_op_turbo_fa_vec(ggml_metal_op_t ctx, const ggml_metal_turbo_fa & fa) {
    ggml_metal_encoder_t enc = ctx->enc;

    const int32_t nwg = ggml_metal_turbo_workgroups(fa.op);
    int32_t nsg = 1;
    while (2*nwg*nsg*OP_FLASH_ATTN_EXT_VEC_NCPSG < fa.k->ne[1] && nsg < GGML_METAL_TURBO_SIMDGROUPS) {
        nsg *= 2;
    }

    ggml_metal_kargs_flash_attn_ext_vec args = {};
    ggml_metal_turbo_fa_args(args, fa, fa.k->nb, fa.v->nb);

    auto pipeline = ggml_metal_library_get_pipeline_turbo_fa(ctx->lib, fa, nwg);

    GGML_ASSERT(nsg*32 <= ggml_metal_pipeline_max_theads_per_threadgroup(pipeline));

    // no padding is bound: the kernel stops at the last cell
    const ggml_metal_buffer_id bid_to = nwg > 1 ? fa.behind(fa.at.tmp) : fa.bid_dst;
    ggml_metal_encoder_turbo_bind(enc, pipeline, args, { fa.bid_q, fa.bid_k, fa.bid_v, fa.bid_mask, fa.bid_sinks, fa.bid_q, bid_to });
    ggml_metal_encoder_set_threadgroup_memory_size(enc, TURBO_FA_VEC_SHARED(fa.k->ne[0], fa.v->ne[0], nsg), 0);

    ggml_metal_encoder_dispatch_threadgroups(enc, args.ne01, args.ne02, args.ne03*nwg, 32, nsg, 1);

    if (nwg == 1) {
        return;
    }
    ggml_metal_op_concurrency_reset(ctx);

    // the sums of the workgroups, by the stock kernel
    const int32_t n_rows = (int32_t) (fa.op->ne[1]*fa.op->ne[2]*fa.op->ne[3]);

    ggml_metal_kargs_flash_attn_ext_vec_reduce args0 = { n_rows };

    auto pipeline0 = ggml_metal_library_get_pipeline_flash_attn_ext_vec_reduce(ctx->lib, fa.op, (int32_t) fa.v->ne[0], nwg);

    ggml_metal_encoder_turbo_bind(enc, pipeline0, args0, { bid_to, fa.bid_dst });

    ggml_metal_encoder_dispatch_threadgroups(enc, n_rows, 1, 1, 32*nwg, 1, 1);
}

static void ggml_metal_op_turbo_fa_tiled(ggml_metal_op_t ctx, const ggml_metal_turbo_fa & fa) {
    ggml_metal_encoder_t enc = ctx->enc;

    const ggml_metal_buffer_id bid_blk = ggml_metal_op_turbo_blk(ctx, fa);
    if (fa.has_mask) {
        ggml_metal_op_concurrency_reset(ctx);
    }

    ggml_metal_kargs_flash_attn_ext args = {};
    ggml_metal_turbo_fa_args(args, fa, fa.k->nb, fa.v->nb);

    auto pipeline = ggml_metal_library_get_pipeline_turbo_fa(ctx->lib, fa, 0);

    GGML_ASSERT(TURBO_FA_SIMDGROUPS*32 <= ggml_metal_pipeline_max_theads_per_threadgroup(pipeline));

    // no padding here either
    ggml_metal_encoder_turbo_bind(enc, pipeline, args, { fa.bid_q, fa.bid_k, fa.bid_v, fa.bid_mask, fa.bid_sinks, fa.bid_q, bid_blk, fa.bid_dst });
    ggml_metal_encoder_set_threadgroup_memory_size(enc, TURBO_FA_SHARED(fa.k->ne[0], fa.v->ne[0]), 0);

    ggml_metal_encoder_dispatch_threadgroups(enc, (args.ne01 + TURBO_FA_ROWS - 1)/TURBO_FA_ROWS, args.ne02, args.ne03,
            32, TURBO_FA_SIMDGROUPS, 1);
}

// A long prompt: K and V as f16, then the stock kernel for f16 with what it needs.
static void ggml_metal_op_turbo_fa_f16(ggml_metal_op_t ctx, const ggml_metal_turbo_fa & fa) {
    ggml_metal_encoder_t enc = ctx->enc;

    uint64_t nbk[4] = { fa.k->nb[0], fa.k->nb[1], fa.k->nb[2], fa.k->nb[3] };
    uint64_t nbv[4] = { fa.v->nb[0], fa.v->nb[1], fa.v->nb[2], fa.v->nb[3] };

    ggml_metal_buffer_id bid_k = fa.bid_k;
    ggml_metal_buffer_id bid_v = fa.bid_v;
    if (ggml_turbo_is(fa.k->type)) {
        bid_k = fa.behind(fa.at.k);
        ggml_metal_op_turbo_kv_f16(ctx, fa.k, bid_k, nbk);
    }
    if (ggml_turbo_is(fa.v->type)) {
        bid_v = fa.behind(fa.at.v);
        ggml_metal_op_turbo_kv_f16(ctx, fa.v, bid_v, nbv);
    }
    const ggml_metal_buffer_id bid_pad = fa.behind(fa.at.pad);
    const ggml_metal_buffer_id bid_blk = ggml_metal_op_turbo_blk(ctx, fa);
    ggml_metal_op_concurrency_reset(ctx);

    const int32_t ncpsg = OP_FLASH_ATTN_EXT_NCPSG;
    const bool has_kvpad = fa.k->ne[1] % ncpsg != 0;

    ggml_metal_kargs_flash_attn_ext args = {};
    ggml_metal_turbo_fa_args(args, fa, nbk, nbv);

    if (has_kvpad) {
        ggml_metal_kargs_flash_attn_ext_pad args0 = {};
        args0.ne11    = args.ne11;
        args0.ne_12_2 = args.ne_12_2;
        args0.ne_12_3 = args.ne_12_3;
        args0.nb11    = args.nb11;
        args0.nb12    = args.nb12;
        args0.nb13    = args.nb13;
        args0.nb21    = args.nb21;
        args0.nb22    = args.nb22;
        args0.nb23    = args.nb23;
        args0.ne31    = args.ne31;
        args0.ne32    = args.ne32;
        args0.ne33    = args.ne33;
        args0.nb31    = args.nb31;
        args0.nb32    = args.nb32;
        args0.nb33    = args.nb33;

        auto pipeline0 = ggml_metal_library_get_pipeline_flash_attn_ext_pad(ctx->lib, fa.op, fa.has_mask, ncpsg);

        ggml_metal_encoder_turbo_bind(enc, pipeline0, args0, { bid_k, bid_v, fa.bid_mask, bid_pad });

        ggml_metal_encoder_dispatch_threadgroups(enc, ncpsg, std::max(args.ne_12_2, args.ne32), std::max(args.ne_12_3, args.ne33), 32, 1, 1);

        ggml_metal_op_concurrency_reset(ctx);
    }

    const int32_t nsg = 4;

    auto pipeline = ggml_metal_library_get_pipeline_turbo_stock(ctx->lib, fa, has_kvpad, args.ns10, args.ns20, nsg);

    ggml_metal_encoder_turbo_bind(enc, pipeline, args, { fa.bid_q, bid_k, bid_v, fa.bid_mask, fa.bid_sinks, bid_pad, bid_blk, fa.bid_dst });

    // queries, scores and result of eight rows, as the stock kernel lays them out for f16
    const size_t n_half = GGML_METAL_TURBO_STOCK_ROWS*(fa.k->ne[0] + 2*GGML_PAD(fa.v->ne[0], 64) + 4*ncpsg);
    ggml_metal_encoder_set_threadgroup_memory_size(enc, GGML_PAD(n_half*sizeof(ggml_fp16_t), 16), 0);

    ggml_metal_encoder_dispatch_threadgroups(enc, (args.ne01 + GGML_METAL_TURBO_STOCK_ROWS - 1)/GGML_METAL_TURBO_STOCK_ROWS,
            args.ne02, args.ne03, 32, nsg, 1);
}

static int ggml_metal_op_turbo_flash_attn_ext(ggml_metal_op_t ctx, const ggml_tensor * op) {
    const ggml_metal_turbo_fa fa = ggml_metal_turbo_fa_of(op);

    if (ggml_metal_turbo_use_vec(op)) {
        ggml_metal_op_turbo_fa_vec(ctx, fa);
    } else if (ggml_metal_turbo_use_f16(op)) {
        ggml_metal_op_turbo_fa_f16(ctx, fa);
    } else {
        ggml_metal_op_turbo_fa_tiled(ctx, fa);
    }
    return 1;
}

// One operator that ggml_metal_turbo_supports said yes to; returns the number of nodes that it takes.
static int ggml_metal_op_turbo(ggml_metal_op_t ctx, int idx) {
    ggml_tensor * op = ctx->node(idx);

    switch (op->op) {
        case GGML_OP_SET_ROWS:       return ggml_metal_op_turbo_set_rows      (ctx, op);
        case GGML_OP_CPY:
        case GGML_OP_DUP:
        case GGML_OP_CONT:           return ggml_metal_op_turbo_cpy           (ctx, op);
        case GGML_OP_GET_ROWS:       return ggml_metal_op_turbo_get_rows      (ctx, op);
        case GGML_OP_FLASH_ATTN_EXT: return ggml_metal_op_turbo_flash_attn_ext(ctx, op);
        default:
            GGML_ABORT("unsupported op");
    }
}
