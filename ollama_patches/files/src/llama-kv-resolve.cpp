#include "llama-kv-resolve.h"

#include "llama-impl.h"
#include "llama-model.h"

#include "ggml-cpp.h"

#include <algorithm>

const char * const LLAMA_KV_KEY_TYPE_K = "general.kv_cache.type_k";
const char * const LLAMA_KV_KEY_TYPE_V = "general.kv_cache.type_v";
const char * const LLAMA_KV_KEY_K_MEAN = "turboquant.k_mean";

const std::vector<ggml_type> LLAMA_KV_TYPES = {
    GGML_TYPE_F32,    GGML_TYPE_F16,  GGML_TYPE_BF16, GGML_TYPE_Q8_0,   GGML_TYPE_Q5_1,   GGML_TYPE_Q5_0,
    GGML_TYPE_IQ4_NL, GGML_TYPE_Q4_1, GGML_TYPE_Q4_0, GGML_TYPE_TURBO4, GGML_TYPE_TURBO3, GGML_TYPE_TURBO2,
};

bool llama_kv_layer_stores(const llama_model & model, uint32_t il) {
    const auto & hparams = model.hparams;
    // Falcon H1 has both in every layer
    const bool recurrent = hparams.is_recr(il) && model.arch != LLM_ARCH_FALCON_H1;
    return hparams.has_kv(il) && !recurrent && hparams.n_embd_k_gqa(il) > 0;
}

bool llama_kv_is_latent(const llama_model & model) {
    return model.hparams.is_mla() || model.arch == LLM_ARCH_DEEPSEEK4;
}

const char * llama_kv_side::source() const {
    if (asked != LLAMA_KV_TYPE_FROM_MODEL) {
        return "as asked";
    }
    return tag->empty() ? "default" : n_problems ? "from the GGUF, as far as usable" : "from the GGUF";
}

void llama_kv_side::note(const std::string & reason) {
    if (n_problems++ == 0) {
        problem = reason;
    }
}

void llama_kv_side::drop(uint32_t il, const std::string & reason) {
    note(reason);
    if (from_tag() && tag->size() == 1) {
        std::fill(types.begin(), types.end(), GGML_TYPE_F16);
    } else if (from_tag()) {
        types[il] = GGML_TYPE_F16;
    }
}

llama_kv_resolver::llama_kv_resolver(const llama_model & model, const llama_context_params & params) :
    model(model), params(params), n_layer(model.hparams.n_layer_all) {
    static const llama_kv_tags none;
    const auto & tags = model.kv_tags ? *model.kv_tags : none;
    k = { true,  "K", LLAMA_KV_KEY_TYPE_K, "-ctk", params.type_k, &tags.type_k, {}, {}, 0 };
    v = { false, "V", LLAMA_KV_KEY_TYPE_V, "-ctv", params.type_v, &tags.type_v, {}, {}, 0 };

    for (auto * side : { &k, &v }) {
        read_types(*side);
        for (uint32_t il = 0; il < n_layer; ++il) {
            if (!llama_kv_layer_stores(model, il)) {
                continue;
            }
            const auto reason = unusable(*side, il);
            if (!reason.empty()) {
                side->drop(il, reason);
            }
        }
    }
    check_equal();
    // no operation can be made up of rows that a type does not divide
    if (!refused()) {
        check_devices();
    }
}

bool llama_kv_resolver::refused() const {
    return (k.n_problems && !k.from_tag()) || (v.n_problems && !v.from_tag());
}

// Trees up to b10068 know no layer of a router.
template <typename H>
static auto kv_router_layer(const H & hparams, int) -> decltype(hparams.router_layer) {
    return hparams.router_layer;
}

template <typename H>
static int kv_router_layer(const H &, long) {
    return -1;
}

std::vector<ggml_type> llama_kv_resolver::stored(const llama_kv_side & side) const {
    const uint32_t n_trunk = model.hparams.n_layer();
    const bool mtp = params.ctx_type == LLAMA_CONTEXT_TYPE_MTP && n_trunk < n_layer;
    // layers of the draft head are cached by its own context; a model may consist of nothing else
    const bool split = n_trunk > 0 && kv_router_layer(model.hparams, 0) < 0;

    std::vector<ggml_type> result;
    for (uint32_t il = 0; il < n_layer; ++il) {
        if (llama_kv_layer_stores(model, il) && (!split || (il >= n_trunk) == mtp)) {
            result.push_back(side.types[il]);
        }
    }
    return result;
}

void llama_kv_resolver::log() const {
    for (const auto * side : { &k, &v }) {
        if (side->n_problems == 0) {
            continue;
        }
        const std::string more = side->n_problems > 1 ? format(" (and %d more layers)", side->n_problems - 1) : "";
        if (side->from_tag()) {
            LLAMA_LOG_WARN("llama_context: %s: %s%s: f16 instead\n", side->key, side->problem.c_str(), more.c_str());
        } else {
            LLAMA_LOG_ERROR("llama_context: %s cache type (%s): %s%s\n",
                    side->name, side->flag, side->problem.c_str(), more.c_str());
        }
    }
}

void llama_kv_resolver::read_types(llama_kv_side & side) const {
    if (side.asked != LLAMA_KV_TYPE_FROM_MODEL) {
        side.types.assign(n_layer, side.asked);
        return;
    }
    side.types.assign(n_layer, GGML_TYPE_F16);
    const auto & names = *side.tag;
    if (names.empty()) {
        return;
    }
    // a writer may not have counted the layers of the draft head
    if (names.size() != 1 && names.size() != n_layer && names.size() != model.hparams.n_layer()) {
        side.note(format("%zu types for %u layers", names.size(), n_layer));
        return;
    }
    for (uint32_t il = 0; il < n_layer && (names.size() == 1 || il < names.size()); ++il) {
        const auto & name = names.size() == 1 ? names[0] : names[il];
        const auto type = std::find_if(LLAMA_KV_TYPES.begin(), LLAMA_KV_TYPES.end(), [&](ggml_type t) {
            return name == ggml_type_name(t);
        });
        if (type != LLAMA_KV_TYPES.end()) {
            side.types[il] = *type;
        } else if (names.size() == 1) {
            side.note(name + " is not a cache type");
            return;
        } else if (llama_kv_layer_stores(model, il)) {
            side.note(format("%s (layer %u) is not a cache type", name.c_str(), il));
        }
    }
}

std::string llama_kv_resolver::unusable(const llama_kv_side & side, uint32_t il) const {
    const ggml_type type = side.types[il];
    if (!ggml_is_quantized(type)) {
        return "";
    }
    if (llama_kv_type_is_turbo(type) && llama_kv_is_latent(model)) {
        return format("%s cannot hold the latent K of this model (MLA); q8_0 can", ggml_type_name(type));
    }
    if (!side.is_k && params.flash_attn_type == LLAMA_FLASH_ATTN_TYPE_DISABLED) {
        return format("%s needs flash attention, which is off (-fa on, or a type that is not quantized)",
                ggml_type_name(type));
    }
    return unfit_head(side, il);
}

std::string llama_kv_resolver::unfit_head(const llama_kv_side & side, uint32_t il) const {
    const ggml_type type = side.types[il];
    const uint32_t  n    = side.is_k ? model.hparams.n_embd_head_k(il) : model.hparams.n_embd_head_v(il);

    // without flash attention llama.cpp lets stock types pass
    const bool checked = params.flash_attn_type != LLAMA_FLASH_ATTN_TYPE_DISABLED || llama_kv_type_is_turbo(type);
    if (!checked || n % ggml_blck_size(type) == 0) {
        return "";
    }
    std::string fits;
    for (const ggml_type t : LLAMA_KV_TYPES) {
        if (n % ggml_blck_size(t) == 0) {
            fits += (fits.empty() ? "" : ", ") + std::string(ggml_type_name(t));
        }
    }
    return format("%s has blocks of %d, the head dimension of layer %u is %u (types that fit: %s)",
            ggml_type_name(type), (int) ggml_blck_size(type), il, n, fits.c_str());
}

void llama_kv_resolver::check_equal() {
    if (!llama_kv_is_latent(model) || k.types == v.types) {
        return;
    }
    for (auto * side : { &k, &v }) {
        if (side->from_tag()) {
            side->note("this model (MLA) takes equal types for K and V only");
            std::fill(side->types.begin(), side->types.end(), GGML_TYPE_F16);
        }
    }
}

// Turbo types have kernels on some backends only, and a cache cannot move when an operation is missing.
void llama_kv_resolver::check_devices() {
    for (uint32_t il = 0; il < n_layer; ++il) {
        if (!llama_kv_layer_stores(model, il)) {
            continue;
        }
        auto * dev = params.offload_kqv ? model.dev_layer(il)
                                        : ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
        if (!dev) {
            continue;
        }
        for (auto * side : { &k, &v }) {
            if (llama_kv_type_is_turbo(side->types[il]) && !(stores(dev, *side, il) && attends(dev, il))) {
                side->drop(il, format("%s has no kernels on %s with K %s and V %s (-nkvo keeps the cache on the CPU, "
                        "which has them)", ggml_type_name(side->types[il]), ggml_backend_dev_name(dev),
                        ggml_type_name(k.types[il]), ggml_type_name(v.types[il])));
            }
        }
    }
}

static ggml_context_ptr kv_scratch() {
    ggml_init_params init = { 16*ggml_tensor_overhead(), nullptr, true };
    return ggml_context_ptr { ggml_init(init) };
}

bool llama_kv_resolver::stores(ggml_backend_dev_t dev, const llama_kv_side & side, uint32_t il) const {
    const auto ctx = kv_scratch();
    const int64_t n = side.is_k ? model.hparams.n_embd_k_gqa(il) : model.hparams.n_embd_v_gqa(il);
    ggml_tensor * cache = ggml_new_tensor_2d(ctx.get(), side.types[il], n, 256);
    ggml_tensor * rows  = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F32, n, 1);
    ggml_tensor * idxs  = ggml_new_tensor_1d(ctx.get(), GGML_TYPE_I64, 1);
    return ggml_backend_dev_supports_op(dev, ggml_set_rows(ctx.get(), cache, rows, idxs));
}

bool llama_kv_resolver::attends(ggml_backend_dev_t dev, uint32_t il) const {
    if (params.flash_attn_type == LLAMA_FLASH_ATTN_TYPE_DISABLED) {
        return true;
    }
    const auto & hparams = model.hparams;
    const auto ctx = kv_scratch();
    const int64_t n_k  = hparams.n_embd_head_k(il);
    const int64_t n_v  = hparams.n_embd_head_v(il);
    const int64_t n_kv = 256;
    ggml_tensor * q    = ggml_new_tensor_3d(ctx.get(), GGML_TYPE_F32, n_k, 1, hparams.n_head(il));
    ggml_tensor * ks   = ggml_new_tensor_3d(ctx.get(), k.types[il], n_k, n_kv, hparams.n_head_kv(il));
    ggml_tensor * vs   = ggml_new_tensor_3d(ctx.get(), v.types[il], n_v, n_kv, hparams.n_head_kv(il));
    ggml_tensor * mask = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F16, n_kv, 1);
    ggml_tensor * op   = ggml_flash_attn_ext(ctx.get(), q, ks, vs, mask, 1.0f, 0.0f, 0.0f);
    return ggml_backend_dev_supports_op(dev, op);
}
