#pragma once

#include "llama-kv-defaults.h"

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

struct llama_hparams;
struct llama_model_loader;

// The keys of a GGUF that concern its KV cache, as they stand there.
struct llama_kv_tags {
    std::vector<std::string> type_k; // empty: no key; one name: all layers; else one per layer
    std::vector<std::string> type_v;
    std::vector<float>       k_mean; // of all layers in order, n_embd_k_gqa values for each that stores K

    static std::shared_ptr<const llama_kv_tags> read(llama_model_loader & ml);
};

// The types of one context's cache.
//
// An instance on the stack of llama_init_from_model() resolves the parameters and is what the caches of that context
// look at while they are made: their constructors take one type for all layers, and too many of them hand it on to
// change that.
class llama_kv_types {
public:
    // Writes the outcome to the log and into params: concrete types, flash attention on where V needs it.
    llama_kv_types(const llama_model & model, llama_context_params & params);
    ~llama_kv_types();

    llama_kv_types(const llama_kv_types &) = delete;
    llama_kv_types & operator=(const llama_kv_types &) = delete;

    bool ok() const { return usable; }

    // Type for a layer of the cache being made; fallback if it is not one of the model's main caches.
    // hparams tells these from indexers' caches, which are made with a changed copy and never get a turbo type.
    static ggml_type of_k(const llama_model & model, const llama_hparams & hparams, uint32_t il, ggml_type fallback);
    static ggml_type of_v(const llama_model & model, const llama_hparams & hparams, uint32_t il, ggml_type fallback);

    // Mean of K of a layer of the cache being made, empty where none is to be subtracted.
    static std::vector<float> mean_of_k(const llama_model & model, const llama_hparams & hparams, uint32_t il);

private:
    const llama_model & model;

    bool usable = false;

    std::vector<ggml_type> types_k; // by layer; empty where no cache will be made
    std::vector<ggml_type> types_v;

    std::vector<std::vector<float>> k_mean; // by layer; empty where there is none

    llama_kv_types * outer; // of the same thread, to be restored

    static thread_local llama_kv_types * current;

    static const llama_kv_types * current_for(const llama_model & model, const llama_hparams & hparams);
};

bool llama_kv_type_is_turbo(ggml_type type);

// "turbo4", or "mixed: 15 turbo4 + 3 f16" in the order of their first layers; the name of fallback without layers.
std::string llama_kv_type_summary(const std::vector<ggml_type> & types, ggml_type fallback);

// Whether a cache with layers of these types gains from the rotation in the graph. Turbo types rotate inside.
bool llama_kv_types_want_rotation(const std::vector<ggml_type> & types);

// Types of the layers of a cache; layers without that tensor are left out.
template <typename L>
std::vector<ggml_type> llama_kv_layer_types(const std::vector<L> & layers, ggml_tensor * L::* side) {
    std::vector<ggml_type> result;
    for (const auto & layer : layers) {
        if (layer.*side) {
            result.push_back((layer.*side)->type);
        }
    }
    return result;
}
