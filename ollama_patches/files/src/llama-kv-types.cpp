#include "llama-kv-types.h"

#include "llama-kv-resolve.h"
#include "llama-impl.h"
#include "llama-model.h"
#include "llama-model-loader.h"

#include <algorithm>
#include <cmath>

bool llama_kv_type_is_turbo(ggml_type type) {
    return type == GGML_TYPE_TURBO2 || type == GGML_TYPE_TURBO3 || type == GGML_TYPE_TURBO4;
}

const char * llama_kv_type_name(ggml_type type) {
    return type == LLAMA_KV_TYPE_FROM_MODEL ? "the model's, or f16" : ggml_type_name(type);
}

std::string llama_kv_type_summary(const std::vector<ggml_type> & types, ggml_type fallback) {
    std::vector<std::pair<ggml_type, int>> counts;
    for (const ggml_type type : types) {
        const auto it = std::find_if(counts.begin(), counts.end(), [&](const auto & c) { return c.first == type; });
        if (it == counts.end()) {
            counts.emplace_back(type, 1);
        } else {
            ++it->second;
        }
    }
    if (counts.size() < 2) {
        return ggml_type_name(counts.empty() ? fallback : counts[0].first);
    }
    std::string result = "mixed:";
    for (const auto & [type, n] : counts) {
        result += format("%s %d %s", result.back() == ':' ? "" : " +", n, ggml_type_name(type));
    }
    return result;
}

bool llama_kv_types_want_rotation(const std::vector<ggml_type> & types) {
    return std::any_of(types.begin(), types.end(), [](ggml_type type) {
        return ggml_is_quantized(type) && !llama_kv_type_is_turbo(type);
    });
}

//
// tags
//

static std::vector<std::string> kv_tag_names(llama_model_loader & ml, const char * key) {
    const gguf_context * meta = ml.metadata;

    const int id = gguf_find_key(meta, key);
    const gguf_type type = id < 0 ? GGUF_TYPE_STRING : gguf_get_kv_type(meta, id);

    // --override-kv replaces arrays as well
    if (type == GGUF_TYPE_STRING || ml.kv_overrides.count(key)) {
        std::string name;
        return ml.get_key(key, name, false) && !name.empty() ? std::vector<std::string> { name }
                                                             : std::vector<std::string>();
    }
    if (type != GGUF_TYPE_ARRAY || gguf_get_arr_type(meta, id) != GGUF_TYPE_STRING) {
        // shows up in the warning as a name that is no type
        return { format("<%s>", gguf_type_name(type)) };
    }
    std::vector<std::string> names(gguf_get_arr_n(meta, id));
    for (size_t i = 0; i < names.size(); ++i) {
        names[i] = gguf_get_arr_str(meta, id, i);
    }
    return names;
}

std::shared_ptr<const llama_kv_tags> llama_kv_tags::read(llama_model_loader & ml) {
    auto tags = std::make_shared<llama_kv_tags>();
    tags->type_k = kv_tag_names(ml, LLAMA_KV_KEY_TYPE_K);
    tags->type_v = kv_tag_names(ml, LLAMA_KV_KEY_TYPE_V);

    const int id = gguf_find_key(ml.metadata, LLAMA_KV_KEY_K_MEAN);
    if (id >= 0) {
        if (gguf_get_kv_type(ml.metadata, id) == GGUF_TYPE_ARRAY &&
            gguf_get_arr_type(ml.metadata, id) == GGUF_TYPE_FLOAT32) {
            const auto * values = (const float *) gguf_get_arr_data(ml.metadata, id);
            tags->k_mean.assign(values, values + gguf_get_arr_n(ml.metadata, id));
        } else {
            LLAMA_LOG_WARN("%s: %s is no array of f32: K is stored whole\n", __func__, LLAMA_KV_KEY_K_MEAN);
        }
    }
    return tags;
}

std::string llama_kv_types_effective(const llama_model * model, const llama_context_params & params, bool of_k) {
    const llama_kv_resolver resolver(*model, params);
    if (resolver.refused()) {
        return "none";
    }
    return llama_kv_type_summary(resolver.stored(of_k ? resolver.k : resolver.v), GGML_TYPE_F16);
}

//
// mean of K
//

// Why the model's K cannot be stored without its mean; empty if it can.
static std::string kv_mean_unusable(const llama_model & model) {
    if (llama_kv_is_latent(model)) {
        return "K is V as well (MLA)";
    }
    if (model.hparams.attn_soft_cap || model.arch == LLM_ARCH_GROK) { // Grok's graph has a cap of its own
        return "logits of attention are capped";
    }
    if (model.split_mode() == LLAMA_SPLIT_MODE_TENSOR) {
        return "not with --split-mode tensor";
    }
    for (const auto & layer : model.layers) {
        if (layer.attn_sinks) {
            return "the model has attention sinks";
        }
    }
    return "";
}

static std::vector<std::vector<float>> kv_mean_by_layer(const llama_model & model) {
    const auto & hparams = model.hparams;
    if (!model.kv_tags || model.kv_tags->k_mean.empty()) {
        return {};
    }
    const auto & values = model.kv_tags->k_mean;

    std::vector<size_t> sizes(hparams.n_layer_all);
    size_t n_all   = 0;
    size_t n_trunk = 0;
    for (uint32_t il = 0; il < hparams.n_layer_all; ++il) {
        sizes[il] = llama_kv_layer_stores(model, il) ? hparams.n_embd_k_gqa(il) : 0;
        n_all   += sizes[il];
        n_trunk += il < hparams.n_layer() ? sizes[il] : 0;
    }

    std::string reason = kv_mean_unusable(model);
    if (reason.empty() && values.size() != n_all && values.size() != n_trunk) {
        reason = format("%zu values (expected %zu)", values.size(), n_all);
    }
    if (reason.empty() && !std::all_of(values.begin(), values.end(), [](float x) { return std::isfinite(x); })) {
        reason = "a value is not finite";
    }
    if (!reason.empty()) {
        LLAMA_LOG_WARN("llama_context: %s: %s: K is stored whole\n", LLAMA_KV_KEY_K_MEAN, reason.c_str());
        return {};
    }

    std::vector<std::vector<float>> result(hparams.n_layer_all);
    auto at = values.begin();
    for (uint32_t il = 0; il < hparams.n_layer_all && at != values.end(); ++il) {
        result[il].assign(at, at + sizes[il]);
        at += sizes[il];
    }
    return result;
}

//
// llama_kv_types
//

thread_local llama_kv_types * llama_kv_types::current = nullptr;

llama_kv_types::llama_kv_types(const llama_model & model, llama_context_params & params) :
    model(model), outer(current) {
    // vocabularies have no layers, and no cache will be made
    if (model.hparams.vocab_only || model.hparams.n_layer_all == 0) {
        params.type_k = params.type_k == LLAMA_KV_TYPE_FROM_MODEL ? GGML_TYPE_F16 : params.type_k;
        params.type_v = params.type_v == LLAMA_KV_TYPE_FROM_MODEL ? GGML_TYPE_F16 : params.type_v;
        usable = true;
        return;
    }

    const llama_kv_resolver resolver(model, params);
    resolver.log();
    if (resolver.refused()) {
        return;
    }
    usable  = true;
    types_k = resolver.k.types;
    types_v = resolver.v.types;
    k_mean  = kv_mean_by_layer(model);

    const auto stored_k = resolver.stored(resolver.k);
    const auto stored_v = resolver.stored(resolver.v);

    // what the checks of llama_init_from_model() and caches of indexers see: f16 stands for a mixture
    const auto common = [](const std::vector<ggml_type> & types) {
        const bool same = std::all_of(types.begin(), types.end(), [&](ggml_type t) { return t == types[0]; });
        return !types.empty() && same ? types[0] : GGML_TYPE_F16;
    };
    params.type_k = common(stored_k);
    params.type_v = common(stored_v);

    if (params.flash_attn_type == LLAMA_FLASH_ATTN_TYPE_AUTO &&
        std::any_of(stored_v.begin(), stored_v.end(), ggml_is_quantized)) {
        params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
        LLAMA_LOG_INFO("llama_context: flash attention on, because V is quantized\n");
    }

    LLAMA_LOG_INFO("llama_context: KV cache types: K %s (%s), V %s (%s)\n",
            llama_kv_type_summary(stored_k, GGML_TYPE_F16).c_str(), resolver.k.source(),
            llama_kv_type_summary(stored_v, GGML_TYPE_F16).c_str(), resolver.v.source());
    const auto centred = std::count_if(k_mean.begin(), k_mean.end(), [&](const auto & mean) {
        return !mean.empty() && ggml_is_quantized(types_k[&mean - k_mean.data()]);
    });
    if (centred > 0) {
        LLAMA_LOG_INFO("llama_context: K is stored without its mean in %d layers (%s)\n",
                (int) centred, LLAMA_KV_KEY_K_MEAN);
    }
    current = this; // last, as no destructor would undo it if something above threw
}

llama_kv_types::~llama_kv_types() {
    current = outer;
}

const llama_kv_types * llama_kv_types::current_for(const llama_model & model, const llama_hparams & hparams) {
    return current && &current->model == &model && &model.hparams == &hparams ? current : nullptr;
}

// Heads of indexers have a size of their own, which no check has compared with a turbo block.
static ggml_type kv_type_elsewhere(const llama_model & model, const llama_hparams & hparams, ggml_type type) {
    return &model.hparams != &hparams && llama_kv_type_is_turbo(type) ? GGML_TYPE_F16 : type;
}

ggml_type llama_kv_types::of_k(const llama_model & model, const llama_hparams & hparams, uint32_t il, ggml_type fallback) {
    const auto * types = current_for(model, hparams);
    return types && il < types->types_k.size() ? types->types_k[il] : kv_type_elsewhere(model, hparams, fallback);
}

ggml_type llama_kv_types::of_v(const llama_model & model, const llama_hparams & hparams, uint32_t il, ggml_type fallback) {
    const auto * types = current_for(model, hparams);
    return types && il < types->types_v.size() ? types->types_v[il] : kv_type_elsewhere(model, hparams, fallback);
}

std::vector<float> llama_kv_types::mean_of_k(const llama_model & model, const llama_hparams & hparams, uint32_t il) {
    const auto * types = current_for(model, hparams);
    return types && il < types->k_mean.size() ? types->k_mean[il] : std::vector<float>();
}
