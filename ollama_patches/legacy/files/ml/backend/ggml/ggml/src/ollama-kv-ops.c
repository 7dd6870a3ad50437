#include "ollama-kv-ops.h"

// Shapes are those of a small cache: devices decide by type, head dimension and alignment.
enum { CELLS = 256, HEADS_KV = 1, HEADS = 8 };

static struct ggml_context * context(void) {
    struct ggml_init_params params = { 32 * ggml_tensor_overhead(), NULL, true };
    return ggml_init(params);
}

static bool stores(struct ggml_context * ctx, ggml_backend_dev_t dev, enum ggml_type type, int64_t dim) {
    struct ggml_tensor * cache = ggml_new_tensor_2d(ctx, type, dim * HEADS_KV, CELLS);
    struct ggml_tensor * rows  = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, dim * HEADS_KV, 1);
    struct ggml_tensor * ids   = ggml_new_tensor_1d(ctx, GGML_TYPE_I32, 1);
    return ggml_backend_dev_supports_op(dev, ggml_set_rows(ctx, cache, rows, ids));
}

bool ollama_kv_types_supported(ggml_backend_dev_t dev, enum ggml_type k, enum ggml_type v, int64_t dim_k, int64_t dim_v) {
    struct ggml_context * ctx = context();
    bool ok = stores(ctx, dev, k, dim_k) && stores(ctx, dev, v, dim_v);
    if (ok) {
        struct ggml_tensor * query = ggml_new_tensor_3d(ctx, GGML_TYPE_F32, dim_k, 1, HEADS);
        struct ggml_tensor * key   = ggml_new_tensor_3d(ctx, k, dim_k, CELLS, HEADS_KV);
        struct ggml_tensor * value = ggml_new_tensor_3d(ctx, v, dim_v, CELLS, HEADS_KV);
        struct ggml_tensor * mask  = ggml_new_tensor_2d(ctx, GGML_TYPE_F16, CELLS, 1);
        struct ggml_tensor * node  = ggml_flash_attn_ext(ctx, query, key, value, mask, 1.0f, 0.0f, 0.0f);
        ggml_flash_attn_ext_set_prec(node, GGML_PREC_F32);
        ok = ggml_backend_dev_supports_op(dev, node);
    }
    ggml_free(ctx);
    return ok;
}

bool ollama_kv_shift_supported(ggml_backend_dev_t dev, enum ggml_type k, int64_t dim_k) {
    struct ggml_context * ctx = context();
    struct ggml_tensor * cache = ggml_new_tensor_3d(ctx, k, dim_k, HEADS_KV, CELLS);
    struct ggml_tensor * plain = ggml_cast(ctx, cache, GGML_TYPE_F32);
    struct ggml_tensor * back  = ggml_cpy(ctx, plain, cache);
    const bool ok = ggml_backend_dev_supports_op(dev, plain) && ggml_backend_dev_supports_op(dev, back);
    ggml_free(ctx);
    return ok;
}
