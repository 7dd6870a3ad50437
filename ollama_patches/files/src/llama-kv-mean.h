#pragma once

#include "ggml-cpp.h"

#include <cstdint>
#include <map>
#include <vector>

// The mean of K that a cache leaves out of what it stores.
//
// softmax(q (k - m)) = softmax(q k), because q m is the same for every key: no other node has to know. What is left of
// K has less energy, so a quantized type loses less. Layers whose K is not quantized keep it: nothing to gain.
class llama_kv_mean {
public:
    // mean: [n_embd_k_gqa] values before any rotation, for the layer whose K tensor this is (already in its buffer)
    void add_layer(uint32_t il, const ggml_tensor * k, std::vector<float> mean);

    // Puts the values beside the caches' tensors.
    // rot: the orthogonal n x n matrix that the graph applies to groups of n values of K, row-major; null without one
    void upload(const float * rot, int64_t n);

    // K of the layer with the mean taken out, or put back; cur: [n_embd_head, n_head, n_rows] or [n_embd_gqa, n_rows]
    ggml_tensor * subtract(ggml_context * ctx, ggml_tensor * cur, int32_t il) const;
    ggml_tensor * add     (ggml_context * ctx, ggml_tensor * cur, int32_t il) const;

    // Tag of the stored K for state files: the type, with a checksum of what is missing from K above it.
    int32_t state_type(const ggml_tensor * k, int32_t il) const;

    size_t n_layers() const { return layers.size(); }

private:
    struct layer {
        const ggml_tensor * k;
        std::vector<float>  values;
        ggml_tensor       * mean = nullptr;
        uint32_t            hash = 0;
    };

    std::map<int32_t, layer> layers; // by the model's layer

    std::vector<std::pair<ggml_context_ptr, ggml_backend_buffer_ptr>> ctxs_bufs;

    ggml_tensor * mean_like(ggml_context * ctx, const ggml_tensor * cur, int32_t il) const;
};
