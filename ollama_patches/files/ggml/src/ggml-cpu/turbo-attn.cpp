// FLASH_ATTN_EXT with a turbo type for K or V.
//
// The query is rotated once, values are summed in the rotated domain and rotated back once. All query heads of a KV
// head, and several tokens, share the unpacking of a tile of 64 positions. The cache is cut into chunks by the shape of
// the node alone and chunks are merged in order, so the result does not depend on the number of threads.

#include "turbo.h"
#include "turbo-kernels.h"
#include "turbo-node.h"
#include "turbo-product.h"
#include "ggml-cpu.h"
#include "ggml-cpu-impl.h"
#include "vec.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

using namespace turbo;

namespace {

// ---- reference mode

thread_local bool reference_mode = false;

template <typename P> auto use_ref(const P & params, int) -> decltype(params.use_ref) { return params.use_ref; }
template <typename P> bool use_ref(const P &, long) { return false; } // older bases have no such member

void row_to_f32(ggml_type type, const char * x, float * y, int64_t n) {
    if (type == GGML_TYPE_F32) {
        memcpy(y, x, n*sizeof(float));
    } else {
        ggml_get_type_traits(type)->to_float(x, y, n);
    }
}

// ---- memory

struct Arena {
    uintptr_t base; // 0 to measure, which on a null pointer would be undefined
    size_t    used = 0;
    template <typename T> T * take(int64_t n) {
        T * p = (T *) (base + used);
        used += ((size_t) n*sizeof(T) + 63)/64*64;
        return p;
    }
};

// What one thread works in.
struct Scratch {
    KeyTile   * k_tile;
    ValueTile * v_tile;
    char  * q;                     // [rows] of q_type
    float * k32, * v32, * row;     // the side that is not turbo
    float * bias;                  // [tile_tokens][TILE]
    float * S, * O, * m, * s;      // [rows][TILE], [rows][DV], [rows], [rows]

    Scratch(Arena & a, const Node & n) {
        k_tile = n.k_turbo ? a.take<KeyTile>  (n.DK/QK_TURBO) : nullptr;
        v_tile = n.v_turbo ? a.take<ValueTile>(n.DV/QK_TURBO) : nullptr;
        q      = a.take<char>(n.rows()*n.q_size());
        k32    = a.take<float>(n.k_product ? n.DK*TILE : 0);
        v32    = a.take<float>(n.v_turbo ? 0 : n.DV*TILE);
        row    = a.take<float>(n.DK);
        bias   = a.take<float>(n.tile_tokens*TILE);
        S      = a.take<float>(n.rows()*TILE);
        O      = a.take<float>(n.rows()*n.DV);
        m      = a.take<float>(n.rows());
        s      = a.take<float>(n.rows());
    }
};

// What the threads share where the cache is cut: queries, and [row][chunk] of maximum, sum, values.
struct Shared {
    char  * q       = nullptr;
    float * results = nullptr;

    Shared(Arena & a, const Node & n) {
        if (n.chunks > 1) {
            const int64_t rows = n.tokens*n.heads*n.batch;
            q       = a.take<char>(rows*n.q_size());
            results = a.take<float>(rows*n.chunks*(2 + n.DV));
        }
    }
};

size_t scratch_size(const Node & n) {
    Arena a { 0 };
    Scratch scratch(a, n);
    return a.used;
}

size_t shared_size(const Node & n) {
    Arena a { 0 };
    Shared shared(a, n);
    return a.used;
}

// ---- one unit: rows of one KV head, one token tile, against positions [from, to)

struct Unit {
    int64_t t0, n_tokens, g, b, from, to;
};

template <typename TILE_T, typename LOAD> void load_blocks(ggml_type type, TILE_T * tile, const char * rows, size_t stride, int n, int64_t blocks, LOAD load) {
    for (int64_t i = 0; i < blocks; i++) {
        load(tile[i], *ggml_turbo_code_of(type), rows + i*ggml_type_size(type), stride, n);
    }
}

void load_key_tile(const Node & n, const Scratch & w, const char * rows, int np) {
    const size_t stride = n.k->nb[1];
    const int64_t blocks = n.DK/QK_TURBO;
    switch (n.k->type) {
        case GGML_TYPE_TURBO4: load_blocks(n.k->type, w.k_tile, rows, stride, np, blocks, load_keys<4>); break;
        case GGML_TYPE_TURBO3: load_blocks(n.k->type, w.k_tile, rows, stride, np, blocks, load_keys<3>); break;
        case GGML_TYPE_TURBO2: load_blocks(n.k->type, w.k_tile, rows, stride, np, blocks, load_keys<2>); break;
        default:
            if (n.k_product) { // transposed: [DK][TILE]
                for (int p = 0; p < TILE; p++) {
                    if (p < np) {
                        row_to_f32(n.k->type, rows + p*stride, w.row, n.DK);
                    }
                    for (int64_t c = 0; c < n.DK; c++) {
                        w.k32[c*TILE + p] = p < np ? w.row[c] : 0.0f;
                    }
                }
            }
    }
}

void load_value_tile(const Node & n, const Scratch & w, const char * rows, int np) {
    const size_t stride = n.v->nb[1];
    const int64_t blocks = n.DV/QK_TURBO;
    switch (n.v->type) {
        case GGML_TYPE_TURBO4: load_blocks(n.v->type, w.v_tile, rows, stride, np, blocks, load_values<4>); break;
        case GGML_TYPE_TURBO3: load_blocks(n.v->type, w.v_tile, rows, stride, np, blocks, load_values<3>); break;
        case GGML_TYPE_TURBO2: load_blocks(n.v->type, w.v_tile, rows, stride, np, blocks, load_values<2>); break;
        default:
            for (int p = 0; p < np; p++) {
                row_to_f32(n.v->type, rows + p*stride, w.v32 + p*n.DV, n.DV);
            }
    }
}

// S = Q K^T for a tile, before the scale
void score_tile(const Node & n, const Scratch & w, const char * q, const char * rows, int np, int64_t R) {
    if (n.k_turbo) {
        std::fill(w.S, w.S + R*TILE, 0.0f);
        for (int64_t i = 0; i < n.DK/QK_TURBO; i++) {
            add_scores(w.S, w.k_tile[i], q + i*sizeof(block_turbo_q), n.q_size(), (int) R);
        }
    } else if (n.k_product) {
        std::fill(w.S, w.S + R*TILE, 0.0f);
        add_product(w.S, TILE, (const float *) q, n.DK, w.k32, TILE, R, n.DK, TILE);
    } else {
        const auto dot = ggml_get_type_traits_cpu(n.k->type)->vec_dot;
        for (int p = 0; p < np; p++) {
            for (int64_t r = 0; r < R; r++) {
                dot((int) n.DK, w.S + r*TILE + p, 0, rows + p*n.k->nb[1], 0, q + r*n.q_size(), 0, 1);
            }
        }
    }
}

// Scores to weights: scale, cap, mask, running maximum and sum. False if no position is visible to the row.
bool soften(const Node & n, float * x, const float * bias, float slope, int np, float & m, float & s, float * O) {
    std::fill(x + np, x + TILE, -INFINITY);
    for (int p = 0; p < np; p++) {
        x[p] *= n.scale;
    }
    if (n.softcap != 0) {
        for (int p = 0; p < np; p++) {
            x[p] = n.softcap*tanhf(x[p]);
        }
    }
    if (bias) {
        for (int p = 0; p < np; p++) { // a masked position is hidden even if its key is not a number
            x[p] = bias[p] == -INFINITY ? -INFINITY : x[p] + slope*bias[p];
        }
    }
    float lane[16];
    std::copy(x, x + 16, lane);
    for (int p = 16; p < TILE; p += 16) {
        for (int l = 0; l < 16; l++) {
            lane[l] = lane[l] > x[p + l] ? lane[l] : x[p + l];
        }
    }
    float top = *std::max_element(lane, lane + 16);
    if (top == -INFINITY) {
        // The maximum passes over what is not a number; that must show and is no hidden position.
        if (std::none_of(x, x + np, [](float a) { return std::isnan(a); })) {
            return false;
        }
        top = 0;
    }
    if (top > m) {
        const float shrink = expf(m - top);
        ggml_vec_scale_f32(n.DV, O, shrink);
        s *= shrink;
        m  = top;
    }
    s += (float) ggml_vec_soft_max_f32(TILE, x, x, m);
    return true;
}

void weigh_tile(const Node & n, const Scratch & w, int np, int64_t R) {
    if (n.v_turbo) {
        for (int64_t i = 0; i < n.DV/QK_TURBO; i++) {
            add_values(w.O + i*QK_TURBO, n.DV, w.v_tile[i], w.S, (int) R);
        }
    } else {
        add_product(w.O, n.DV, w.S, TILE, w.v32, n.DV, R, np, n.DV);
    }
}

// Rows of a head lie apart in the cache, where the hardware's prefetch gives up.
void prefetch(const char * rows, size_t stride, int n, size_t row_size) {
#if defined(__GNUC__)
    for (int p = 0; p < n; p++) {
        for (size_t i = 0; i < row_size; i += 64) {
            __builtin_prefetch(rows + p*stride + i);
        }
        __builtin_prefetch(rows + p*stride + row_size - 1);
    }
#else
    GGML_UNUSED(rows); GGML_UNUSED(stride); GGML_UNUSED(n); GGML_UNUSED(row_size);
#endif
}

bool all_hidden(const ggml_fp16_t * x, int n) {
    const uint16_t minus_infinity = 0xfc00;
    int seen = 0;
    for (int i = 0; i < n; i++) {
        uint16_t bits;
        memcpy(&bits, x + i, sizeof(bits));
        seen |= bits != minus_infinity;
    }
    return !seen;
}

// Row r is head r / n_tokens of the group, token r mod n_tokens.
void attend(const Node & n, const Unit & u, const Scratch & w, const char * q) {
    const int64_t R = u.n_tokens*n.group;
    std::fill(w.m, w.m + R, -INFINITY);
    std::fill(w.s, w.s + R, 0.0f);
    std::fill(w.O, w.O + R*n.DV, 0.0f);
    const int64_t mask_heads = n.mask_per_head() ? n.group : 1;
    const size_t  k_size = ggml_row_size(n.k->type, n.DK), v_size = ggml_row_size(n.v->type, n.DV);

    for (int64_t p0 = u.from; p0 < u.to; p0 += TILE) {
        const int np = (int) std::min<int64_t>(TILE, u.to - p0);
        if (n.mask) {
            bool hidden = true;
            for (int64_t i = 0; i < mask_heads*u.n_tokens && hidden; i++) {
                hidden = all_hidden(n.mask_row(u.t0 + i % u.n_tokens, u.g*n.group + i/u.n_tokens, u.b) + p0, np);
            }
            if (hidden) {
                continue;
            }
        }
        const char * k_rows = n.keys(u.g, u.b, p0), * v_rows = n.values(u.g, u.b, p0);
        prefetch(v_rows, n.v->nb[1], np, v_size);
        load_key_tile(n, w, k_rows, np);
        score_tile(n, w, q, k_rows, np, R);
        prefetch(k_rows + TILE*n.k->nb[1], n.k->nb[1], (int) std::min<int64_t>(TILE, std::max<int64_t>(0, n.positions - p0 - TILE)), k_size);
        for (int64_t r = 0; r < R; r++) {
            const int64_t t = r % u.n_tokens, h = u.g*n.group + r/u.n_tokens;
            float * bias = n.mask ? w.bias + t*TILE : nullptr;
            if (n.mask && (n.mask_per_head() || r < u.n_tokens)) {
                ggml_cpu_fp16_to_fp32(n.mask_row(u.t0 + t, h, u.b) + p0, bias, np);
            }
            if (!soften(n, w.S + r*TILE, bias, n.slope(h), np, w.m[r], w.s[r], w.O + r*n.DV)) {
                std::fill(w.S + r*TILE, w.S + (r + 1)*TILE, 0.0f);
            }
        }
        load_value_tile(n, w, v_rows, np);
        weigh_tile(n, w, np, R);
    }
}

// ---- the node on one thread

void compute(const Node & n, const ggml_compute_params * params) {
    const size_t mine = scratch_size(n);
    // The work buffer need not be aligned; one cache line of slack is planned for.
    const uintptr_t base = ((uintptr_t) params->wdata + 63)/64*64;
    GGML_ASSERT(params->wsize >= 64 + shared_size(n) + mine*params->nth);
    Arena common { base }, own { base + shared_size(n) + mine*params->ith };
    const Shared  shared(common, n);
    const Scratch w(own, n);

    const size_t qs = n.q_size();
    if (params->ith == 0) {
        ggml_threadpool_chunk_set(params->threadpool, params->nth);
    }
    // Shared rows lie as the units want them: [batch][token tile][kv head][head of the group][token].
    const int64_t units = n.batch*n.token_tiles*n.kv_heads;
    auto unit_at = [&](int64_t i, int64_t c) {
        const int64_t g = i % n.kv_heads, tile = i/n.kv_heads % n.token_tiles, b = i/(n.kv_heads*n.token_tiles);
        const int64_t t0 = tile*n.tile_tokens;
        return Unit { t0, std::min(n.tile_tokens, n.tokens - t0), g, b, c*n.chunk, std::min((c + 1)*n.chunk, n.positions) };
    };
    auto first_row = [&](const Unit & u) { return (u.b*n.tokens + u.t0)*n.heads + u.g*n.group*u.n_tokens; };
    auto load_queries = [&](const Unit & u, char * to) {
        for (int64_t r = 0; r < u.n_tokens*n.group; r++) {
            n.load_query(u.t0 + r % u.n_tokens, u.g*n.group + r/u.n_tokens, u.b, to + r*qs);
        }
    };
    if (n.chunks > 1) {
        for (int64_t i = params->ith; i < units; i += params->nth) {
            const Unit u = unit_at(i, 0);
            load_queries(u, shared.q + first_row(u)*qs);
        }
    }
    ggml_barrier(params->threadpool);

    for (int64_t i = params->ith; i < units*n.chunks; i = ggml_threadpool_chunk_add(params->threadpool, 1)) {
        const Unit u = unit_at(i/n.chunks, i % n.chunks);
        const int64_t R = u.n_tokens*n.group;
        if (n.chunks == 1) {
            load_queries(u, w.q);
            attend(n, u, w, w.q);
            for (int64_t r = 0; r < R; r++) {
                n.store(u.t0 + r % u.n_tokens, u.g*n.group + r/u.n_tokens, u.b, w.m[r], w.s[r], w.O + r*n.DV);
            }
            continue;
        }
        attend(n, u, w, shared.q + first_row(u)*qs);
        for (int64_t r = 0; r < R; r++) {
            float * result = shared.results + ((first_row(u) + r)*n.chunks + i % n.chunks)*(2 + n.DV);
            result[0] = w.m[r];
            result[1] = w.s[r];
            memcpy(result + 2, w.O + r*n.DV, n.DV*sizeof(float));
        }
    }
    if (n.chunks == 1) {
        return;
    }
    ggml_barrier(params->threadpool);

    for (int64_t i = params->ith; i < units; i += params->nth) {
        const Unit u = unit_at(i, 0);
        for (int64_t r = 0; r < u.n_tokens*n.group; r++) {
            const float * results = shared.results + (first_row(u) + r)*n.chunks*(2 + n.DV);
            float m = -INFINITY, s = 0;
            for (int64_t c = 0; c < n.chunks; c++) {
                m = std::max(m, results[c*(2 + n.DV)]);
            }
            std::fill(w.O, w.O + n.DV, 0.0f);
            for (int64_t c = 0; c < n.chunks; c++) {
                const float * part = results + c*(2 + n.DV);
                if (part[0] != -INFINITY) {
                    const float weight = expf(part[0] - m);
                    s += weight*part[1];
                    ggml_vec_mad_f32((int) n.DV, w.O, part + 2, weight);
                }
            }
            n.store(u.t0 + r % u.n_tokens, u.g*n.group + r/u.n_tokens, u.b, m, s, w.O);
        }
    }
}

bool is_ours(const ggml_tensor * node) {
    return node->op == GGML_OP_FLASH_ATTN_EXT && (ggml_turbo_is(node->src[1]->type) || ggml_turbo_is(node->src[2]->type));
}

} // namespace

bool ggml_turbo_reference() {
    return reference_mode;
}

bool ggml_turbo_compute_forward(const ggml_compute_params * params, ggml_tensor * node) {
    reference_mode = use_ref(*params, 0);
    if (reference_mode || !is_ours(node)) {
        return false;
    }
    const Node n(node);
    n.check();
    compute(n, params);
    return true;
}

size_t ggml_turbo_work_size(const ggml_tensor * node, int n_tasks) {
    if (!is_ours(node) || ggml_is_empty(node)) {
        return 0;
    }
    const Node n(node);
    return 64 + shared_size(n) + scratch_size(n)*n_tasks;
}
