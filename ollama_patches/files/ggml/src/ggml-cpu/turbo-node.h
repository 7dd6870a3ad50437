#pragma once

// A FLASH_ATTN_EXT node as turbo-attn.cpp sees it: its sizes, how it is cut into units of work, and its rows.

#include "turbo-kernels.h"
#include "ggml-cpu.h"
#include "ggml-cpu-impl.h"
#include "vec.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace turbo {

constexpr int64_t ROWS         = 64;  // query rows of one unit of work, about
constexpr int64_t MIN_CHUNK    = 512; // positions
constexpr int64_t ENOUGH_UNITS = 64;  // no cut of the cache where there are as many units without
constexpr int64_t PRODUCT_ROWS = 16;  // from here on keys that are not turbo go through a matrix product

// Axes of q: [head_dim, token, head, batch]; of k and v: [head_dim, position, kv head, batch].
struct Node {
    const ggml_tensor * q, * k, * v, * mask, * sinks;
    const ggml_tensor * out;
    int64_t DK, DV, tokens, heads, batch, positions, kv_heads, group;
    int64_t tile_tokens, token_tiles; // tokens of one unit
    int64_t chunk, chunks;            // positions of one unit
    bool    k_turbo, v_turbo, k_product;
    float   scale, max_bias, softcap;

    explicit Node(const ggml_tensor * node)
        : q(node->src[0]), k(node->src[1]), v(node->src[2]), mask(node->src[3]), sinks(node->src[4]), out(node),
          DK(k->ne[0]), DV(v->ne[0]), tokens(q->ne[1]), heads(q->ne[2]), batch(q->ne[3]), positions(k->ne[1]), kv_heads(k->ne[2]),
          group(heads/kv_heads) {
        float p[3];
        memcpy(p, node->op_params, sizeof(p));
        scale    = p[0];
        max_bias = p[1];
        softcap  = p[2];
        if (softcap != 0) {
            scale /= softcap;
        }
        k_turbo     = ggml_turbo_is(k->type);
        v_turbo     = ggml_turbo_is(v->type);
        tile_tokens = std::min(tokens, std::max<int64_t>(1, ROWS/group));
        token_tiles = (tokens + tile_tokens - 1)/tile_tokens;
        k_product   = !k_turbo && rows() >= PRODUCT_ROWS;
        const int64_t whole = token_tiles*kv_heads*batch;
        const int64_t most  = std::max<int64_t>(1, ENOUGH_UNITS/whole);
        chunk  = std::max(MIN_CHUNK, (positions + most*TILE - 1)/(most*TILE)*TILE);
        chunks = std::max<int64_t>(1, (positions + chunk - 1)/chunk);
    }

    void check() const {
        GGML_ASSERT(q->type == GGML_TYPE_F32 && q->nb[0] == sizeof(float) && q->ne[0] == DK);
        GGML_ASSERT(k->nb[0] == ggml_type_size(k->type) && v->nb[0] == ggml_type_size(v->type)); // contiguous rows
        GGML_ASSERT(DK % ggml_blck_size(k->type) == 0 && DV % ggml_blck_size(v->type) == 0);
        GGML_ASSERT(ggml_get_type_traits_cpu(k->type)->vec_dot && (v->type == GGML_TYPE_F32 || ggml_get_type_traits(v->type)->to_float));
        GGML_ASSERT(v->ne[1] == positions && v->ne[2] == kv_heads && v->ne[3] == k->ne[3]);
        GGML_ASSERT(kv_heads > 0 && heads % kv_heads == 0 && k->ne[3] > 0 && batch % k->ne[3] == 0);
        GGML_ASSERT(out->type == GGML_TYPE_F32 && out->nb[0] == sizeof(float));
        GGML_ASSERT(out->ne[0] == DV && out->ne[1] == heads && out->ne[2] == tokens && out->ne[3] == batch);
        if (mask) {
            GGML_ASSERT(mask->type == GGML_TYPE_F16 && mask->nb[0] == sizeof(ggml_fp16_t));
            GGML_ASSERT(mask->ne[0] >= positions && mask->ne[1] >= tokens && heads % mask->ne[2] == 0 && batch % mask->ne[3] == 0);
        }
        if (sinks) {
            GGML_ASSERT(sinks->type == GGML_TYPE_F32 && sinks->ne[0] == heads);
        }
    }

    int64_t   rows()   const { return tile_tokens*group; }
    ggml_type q_type() const { return k_product ? GGML_TYPE_F32 : ggml_get_type_traits_cpu(k->type)->vec_dot_type; }
    size_t    q_size() const { return ggml_row_size(q_type(), DK); }

    const char * keys  (int64_t g, int64_t b, int64_t p) const { return at(k, p, g, b/(batch/k->ne[3])); }
    const char * values(int64_t g, int64_t b, int64_t p) const { return at(v, p, g, b/(batch/v->ne[3])); }
    bool mask_per_head() const { return mask && mask->ne[2] > 1; }
    const ggml_fp16_t * mask_row(int64_t t, int64_t h, int64_t b) const {
        return (const ggml_fp16_t *) at(mask, t, h % mask->ne[2], b % mask->ne[3]);
    }

    // ALiBi: the slopes of one geometric series, and of a second one between them beyond a power of two
    float slope(int64_t h) const {
        if (max_bias <= 0) {
            return 1;
        }
        int64_t n = 1;
        while (2*n <= heads) {
            n *= 2;
        }
        const float exponent = h < n ? (float) (h + 1) : 0.5f*(float) (2*(h - n) + 1);
        return exp2f(-max_bias*exponent/(float) n);
    }

    void load_query(int64_t t, int64_t h, int64_t b, char * to) const {
        const float * x = (const float *) at(q, t, h, b);
        const ggml_type type = q_type();
        if (type == GGML_TYPE_F32) {
            memcpy(to, x, DK*sizeof(float));
        } else {
            ggml_get_type_traits_cpu(type)->from_float(x, to, DK);
        }
    }

    // close the softmax of one row and store it; m, s: running maximum and sum
    void store(int64_t t, int64_t h, int64_t b, float m, float s, float * acc) const {
        float gain = 1;
        if (sinks) { // a logit without a value
            const float sink = ((const float *) sinks->data)[h], top = std::max(m, sink);
            gain = m == -INFINITY ? 0.0f : expf(m - top);
            s    = s*gain + expf(sink - top);
        }
        gain = s == 0 ? 0.0f : gain/s;
        if (v_turbo) {
            for (int64_t c = 0; c < DV; c += QK_TURBO) {
                rotate_inverse(acc + c);
            }
            gain *= 0.08838834764831845f; // 128^-1/2: the transform is not normalised
        }
        ggml_vec_scale_f32(DV, acc, gain);
        memcpy((char *) out->data + h*out->nb[1] + t*out->nb[2] + b*out->nb[3], acc, DV*sizeof(float));
    }

private:
    static const char * at(const ggml_tensor * x, int64_t i1, int64_t i2, int64_t i3) {
        return (const char *) x->data + i1*x->nb[1] + i2*x->nb[2] + i3*x->nb[3];
    }
};

} // namespace turbo
