#include "llama-kv-mean.h"

#include "ggml-backend.h"

#include <cstring>
#include <stdexcept>

void llama_kv_mean::add_layer(uint32_t il, const ggml_tensor * k, std::vector<float> mean) {
    if (mean.empty() || !ggml_is_quantized(k->type)) {
        return;
    }
    GGML_ASSERT((int64_t) mean.size() == k->ne[0]);

    layer l;
    l.k = k;

    // FNV-1a over the bytes, 23 bits of it; the lowest is set so that it never looks like no mean
    uint32_t hash = 2166136261u;
    for (const float value : mean) {
        uint8_t bytes[sizeof(value)];
        memcpy(bytes, &value, sizeof(value));
        for (const uint8_t byte : bytes) {
            hash = (hash ^ byte)*16777619u;
        }
    }
    l.hash   = (hash & 0x7fffff) | 1;
    l.values = std::move(mean);

    layers.emplace(il, std::move(l));
}

// Each group of n values times the symmetric or non-symmetric n x n matrix: out[i] = sum_j rot[i][j] in[j].
static void rotate_groups(std::vector<float> & values, const float * rot, int64_t n) {
    GGML_ASSERT((int64_t) values.size() % n == 0);
    std::vector<float> group(n);
    for (size_t i0 = 0; i0 < values.size(); i0 += n) {
        for (int64_t i = 0; i < n; ++i) {
            double sum = 0.0;
            for (int64_t j = 0; j < n; ++j) {
                sum += (double) rot[i*n + j]*values[i0 + j];
            }
            group[i] = (float) sum;
        }
        std::copy(group.begin(), group.end(), values.begin() + i0);
    }
}

void llama_kv_mean::upload(const float * rot, int64_t n) {
    std::map<ggml_backend_buffer_type_t, std::vector<layer *>> by_buft;
    for (auto & [il, l] : layers) {
        by_buft[ggml_backend_buffer_get_type(l.k->buffer)].push_back(&l);
    }

    for (auto & [buft, ls] : by_buft) {
        ggml_init_params params = {
            /*.mem_size   =*/ ls.size()*ggml_tensor_overhead(),
            /*.mem_buffer =*/ nullptr,
            /*.no_alloc   =*/ true,
        };
        ggml_context_ptr ctx { ggml_init(params) };
        if (!ctx) {
            throw std::runtime_error("failed to create ggml context for the mean of K");
        }
        for (auto * l : ls) {
            l->mean = ggml_new_tensor_1d(ctx.get(), GGML_TYPE_F32, l->values.size());
            ggml_format_name(l->mean, "%s_mean", l->k->name);
        }

        // a cache that is only measured has no data, nor have we
        const bool dry = ls[0]->k->data == nullptr;
        ggml_backend_buffer_ptr buf { dry
            ? ggml_backend_buft_alloc_buffer(buft, 0)
            : ggml_backend_alloc_ctx_tensors_from_buft(ctx.get(), buft) };
        if (!buf) {
            throw std::runtime_error("failed to allocate buffer for the mean of K");
        }
        for (auto * l : ls) {
            if (dry) {
                l->mean->buffer = buf.get();
                continue;
            }
            if (rot) {
                rotate_groups(l->values, rot, n);
            }
            ggml_backend_tensor_set(l->mean, l->values.data(), 0, ggml_nbytes(l->mean));
        }
        ctxs_bufs.emplace_back(std::move(ctx), std::move(buf));
    }
}

ggml_tensor * llama_kv_mean::mean_like(ggml_context * ctx, const ggml_tensor * cur, int32_t il) const {
    const auto it = layers.find(il);
    if (it == layers.end()) {
        return nullptr;
    }
    ggml_tensor * mean = it->second.mean;
    if (cur->ne[0] == mean->ne[0]) {
        return mean;
    }
    GGML_ASSERT(cur->ne[0]*cur->ne[1] == mean->ne[0]);
    return ggml_reshape_2d(ctx, mean, cur->ne[0], cur->ne[1]);
}

ggml_tensor * llama_kv_mean::subtract(ggml_context * ctx, ggml_tensor * cur, int32_t il) const {
    ggml_tensor * mean = mean_like(ctx, cur, il);
    return mean ? ggml_sub(ctx, cur, mean) : cur;
}

ggml_tensor * llama_kv_mean::add(ggml_context * ctx, ggml_tensor * cur, int32_t il) const {
    ggml_tensor * mean = mean_like(ctx, cur, il);
    return mean ? ggml_add(ctx, cur, mean) : cur;
}

int32_t llama_kv_mean::state_type(const ggml_tensor * k, int32_t il) const {
    const auto it = layers.find(il);
    return (int32_t) k->type | (it == layers.end() ? 0 : (int32_t) (it->second.hash << 8));
}
