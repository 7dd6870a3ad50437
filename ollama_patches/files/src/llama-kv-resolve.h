#pragma once

#include "llama-kv-types.h"

// One side of the cache, K or V, on its way from parameter and tag to a type for each layer.
struct llama_kv_side {
    bool         is_k;
    const char * name; // K or V
    const char * key;  // in the GGUF
    const char * flag; // on the command line
    ggml_type    asked;
    const std::vector<std::string> * tag;

    std::vector<ggml_type> types; // by layer

    std::string problem; // the first one
    int         n_problems = 0;

    bool from_tag() const { return asked == LLAMA_KV_TYPE_FROM_MODEL && !tag->empty(); }

    const char * source() const;

    void note(const std::string & reason);

    // Notes the reason; of a tag the layer gets f16, or every layer where they have but one name.
    void drop(uint32_t il, const std::string & reason);
};

// Types for a context's cache, checked against model, parameters and devices. Has no side effects but log().
class llama_kv_resolver {
public:
    llama_kv_resolver(const llama_model & model, const llama_context_params & params);

    // Whether a type was asked for that cannot be; one of a tag is replaced instead.
    bool refused() const;

    // Types of the layers that a cache of this kind of context stores.
    std::vector<ggml_type> stored(const llama_kv_side & side) const;

    void log() const;

    llama_kv_side k;
    llama_kv_side v;

private:
    const llama_model & model;
    const llama_context_params & params;
    const uint32_t n_layer;

    void read_types(llama_kv_side & side) const;

    // Why the layer cannot have its type, with what helps; empty if it can.
    std::string unusable(const llama_kv_side & side, uint32_t il) const;
    std::string unfit_head(const llama_kv_side & side, uint32_t il) const;

    void check_equal();
    void check_devices();

    bool stores (ggml_backend_dev_t dev, const llama_kv_side & side, uint32_t il) const;
    bool attends(ggml_backend_dev_t dev, uint32_t il) const;
};

// Whether a main cache of the model has rows for the layer; has_kv() knows nothing of recurrent layers.
bool llama_kv_layer_stores(const llama_model & model, uint32_t il);

// Whether the model's cache holds one latent row for K and V (MLA).
bool llama_kv_is_latent(const llama_model & model);

// The keys of a GGUF.
extern const char * const LLAMA_KV_KEY_TYPE_K;
extern const char * const LLAMA_KV_KEY_TYPE_V;
extern const char * const LLAMA_KV_KEY_K_MEAN;

// What common/arg.cpp takes on the command line.
extern const std::vector<ggml_type> LLAMA_KV_TYPES;
