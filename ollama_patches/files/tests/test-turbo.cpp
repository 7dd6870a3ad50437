// Tests of the turbo KV-cache types that need nothing but ggml: the codec against its reference and against golden
// bytes, SET_ROWS -> FLASH_ATTN_EXT for every pair of types, threads, numbers that are none.
//
//   test-turbo [golden.bin]      exit 0 if everything holds; a line for each part

#include "ggml.h"
#include "ggml-cpu.h"
#include "ggml-turbo.h"

#include <algorithm>
#include <bitset>
#include <cmath>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <vector>

static int failures = 0;

static void check(bool ok, const char * part, const std::string & what) {
    if (!ok) {
        failures++;
        printf("FAIL %s: %s\n", part, what.c_str());
    }
}

static std::string text(const char * format, ...) {
    char buffer[256];
    va_list args;
    va_start(args, format);
    vsnprintf(buffer, sizeof(buffer), format, args);
    va_end(args);
    return buffer;
}

static const ggml_type TURBO[] = { GGML_TYPE_TURBO4, GGML_TYPE_TURBO3, GGML_TYPE_TURBO2 };

// ---- codec

typedef std::vector<float>   Row;
typedef std::vector<uint8_t> Bytes;

static Bytes encode(ggml_type type, const Row & x, bool reference) {
    Bytes out(ggml_row_size(type, x.size()));
    if (reference) {
        ggml_get_type_traits(type)->from_float_ref(x.data(), out.data(), x.size());
    } else {
        ggml_get_type_traits_cpu(type)->from_float(x.data(), out.data(), x.size());
    }
    return out;
}

static Row decode(ggml_type type, const Bytes & data, size_t n) {
    Row y(n);
    ggml_get_type_traits(type)->to_float(data.data(), y.data(), n);
    return y;
}

static double square(double x) { return x*x; }

static double nmse(const Row & got, const Row & want) {
    double err = 0, ref = 0;
    for (size_t i = 0; i < want.size(); i++) {
        err += square((double) got[i] - want[i]);
        ref += square(want[i]);
    }
    return ref > 0 ? err/ref : err;
}

static void test_codec() {
    std::mt19937 rng(1);
    std::normal_distribution<float> normal;
    const float scales[] = { 1e-30f, 1e-12f, 1e-6f, 1e-3f, 1.0f, 37.0f, 1e4f, 1e6f, 1e30f };
    for (ggml_type type : TURBO) {
        const double bound = type == GGML_TYPE_TURBO4 ? 0.0085 : type == GGML_TYPE_TURBO3 ? 0.034 : 0.121;
        double err = 0, ref = 0, worst_norm = 0;
        int n = 0;
        for (int round = 0; round < 400; round++) {
            for (float scale : scales) {
                Row x(256);
                for (size_t i = 0; i < x.size(); i++) {
                    const float tail = round % 3 == 2 && i % 37 == 5 ? 50.0f : 1.0f; // outlier channels
                    x[i] = scale*normal(rng)*tail;
                }
                if (round % 5 == 4) { // few values, ties and zeros
                    for (float & v : x) {
                        v = scale*(float) ((int) (rng() % 5) - 2);
                    }
                }
                const Bytes a = encode(type, x, true), b = encode(type, x, false);
                check(a == b, "codec", text("%s: bytes differ from the reference at scale %g", ggml_type_name(type), (double) scale));
                if (scale == 1.0f && round % 3 != 2 && round % 5 != 4) {
                    const Row y = decode(type, a, x.size());
                    double ex = 0, ey = 0;
                    for (size_t i = 0; i < x.size(); i++) {
                        err += square((double) x[i] - y[i]);
                        ref += square(x[i]);
                        ex  += square(x[i]);
                        ey  += square(y[i]);
                    }
                    worst_norm = std::max(worst_norm, fabs(sqrt(ey/ex) - 1));
                    n++;
                }
            }
        }
        check(err/ref <= bound, "codec", text("%s: NMSE %.5f of normal data, bound %.4f", ggml_type_name(type), err/ref, bound));
        check(worst_norm <= 1e-3, "codec", text("%s: norm off by %.2e", ggml_type_name(type), worst_norm));
        printf("codec   %s  NMSE %.5f, norm within %.1e, %d rows equal to the reference\n", ggml_type_name(type), err/ref, worst_norm, 400*9);

        const Row zero(256, 0.0f);
        const Row y = decode(type, encode(type, zero, false), zero.size());
        check(std::all_of(y.begin(), y.end(), [](float v) { return v == 0; }), "codec", "a zero row decodes to something");

        for (float bad : { std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity() }) {
            Row x(256, 1.0f);
            x[200] = bad;
            const Bytes a = encode(type, x, true), b = encode(type, x, false);
            check(a == b, "codec", text("%s: bytes of a row with %g differ", ggml_type_name(type), (double) bad));
            const Row z = decode(type, b, x.size());
            check(std::isfinite(z[0]) && std::isnan(z[200]), "codec", text("%s: %g spreads to another block or vanishes", ggml_type_name(type), (double) bad));
        }

        // Huge rows keep their direction; beyond fp16 the norm saturates.
        Row huge(128);
        for (float & v : huge) {
            v = 1e20f*normal(rng);
        }
        const Row big = decode(type, encode(type, huge, false), huge.size());
        double ab = 0, aa = 0, bb = 0;
        for (int i = 0; i < 128; i++) {
            ab += (double) huge[i]*big[i];
            aa += square(huge[i]);
            bb += square(big[i]);
        }
        check(std::isfinite(bb) && ab/sqrt(aa*bb) > (type == GGML_TYPE_TURBO2 ? 0.9 : 0.97), "codec", "a huge row loses its direction");

        // A cache that was rotated by an unsigned Hadamard transform before must not come out of ours un-rotated:
        // one outlier channel then stays one, and the error would be many times larger.
        Row spike(128, 0.0f);
        for (int i = 0; i < 128; i++) {
            spike[i] = (std::bitset<8>(i & 77).count() & 1 ? -1.0f : 1.0f) + 0.05f*normal(rng);
        }
        const double e = nmse(decode(type, encode(type, spike, false), 128), spike);
        check(e <= 2*bound, "codec", text("%s: a rotated row gives NMSE %.4f", ggml_type_name(type), e));
    }
}

// golden.bin: int32 rows, int32 values of a row; rows of float32; then for turbo4, turbo3, turbo2 the bytes of each row
static void test_golden(const char * path) {
    FILE * f = fopen(path, "rb");
    int32_t head[2];
    if (!f || fread(head, sizeof(head), 1, f) != 1 || head[0] <= 0 || head[1] <= 0 || head[1] % QK_TURBO) {
        check(false, "golden", text("%s cannot be read", path));
        return;
    }
    std::vector<Row> rows(head[0], Row(head[1]));
    size_t read = 0;
    for (Row & x : rows) {
        read += fread(x.data(), sizeof(float), x.size(), f);
    }
    check(read == (size_t) head[0]*head[1], "golden", "truncated");
    for (ggml_type type : TURBO) {
        for (const Row & x : rows) {
            Bytes want(ggml_row_size(type, x.size()));
            check(fread(want.data(), 1, want.size(), f) == want.size(), "golden", "truncated");
            check(encode(type, x, true)  == want, "golden", text("%s: the scalar reference gives other bytes", ggml_type_name(type)));
            check(encode(type, x, false) == want, "golden", text("%s: the SIMD path gives other bytes", ggml_type_name(type)));
        }
    }
    fclose(f);
    printf("golden  %d rows of %d values, three types, both paths\n", head[0], head[1]);
}

// ---- attention

struct Shape {
    int DK, DV, tokens, heads, kv_heads, positions;
    bool  causal, sinks;
    float softcap, max_bias;
};

struct Result {
    Row got, want;
};

// SET_ROWS into caches of the types, FLASH_ATTN_EXT over strided views of them; want: the same from the dequantized
// caches in double precision.
static Result attend(ggml_type type_k, ggml_type type_v, const Shape & s, int threads, float poison = 0, bool in_sight = false) {
    ggml_init_params params = { (size_t) 192 << 20, nullptr, false };
    ggml_context * ctx = ggml_init(params);
    std::mt19937 rng(7);
    std::normal_distribution<float> normal;
    auto fill = [&](ggml_tensor * t, float outlier, int D) {
        float * x = (float *) t->data;
        for (int64_t i = 0; i < ggml_nelements(t); i++) {
            x[i] = normal(rng)*((i % D) % 17 == 3 ? outlier : 1.0f);
        }
        return t;
    };
    ggml_tensor * k = fill(ggml_new_tensor_2d(ctx, GGML_TYPE_F32, s.DK*s.kv_heads, s.positions), 4.0f, s.DK);
    ggml_tensor * v = fill(ggml_new_tensor_2d(ctx, GGML_TYPE_F32, s.DV*s.kv_heads, s.positions), 1.0f, s.DV);
    ggml_tensor * q = fill(ggml_new_tensor_3d(ctx, GGML_TYPE_F32, s.DK, s.tokens, s.heads), 0.5f, s.DK);
    ggml_tensor * where = ggml_new_tensor_1d(ctx, GGML_TYPE_I64, s.positions);
    for (int i = 0; i < s.positions; i++) {
        ((int64_t *) where->data)[i] = i;
    }
    const int padded = (s.tokens + 63)/64*64;
    ggml_tensor * mask = ggml_new_tensor_2d(ctx, GGML_TYPE_F16, s.positions, padded);
    auto visible = [&](int t, int p) { return s.causal ? p <= s.positions - s.tokens + t - 3 && p % 11 != 4 : p % 7 != 2; };
    auto bias = [&](int t, int p) { return visible(t, p) ? (s.max_bias > 0 ? -0.01f*(float) abs(t - p) : 0.0f) : -INFINITY; };
    for (int t = 0; t < padded; t++) {
        for (int p = 0; p < s.positions; p++) {
            ((ggml_fp16_t *) mask->data)[t*s.positions + p] = ggml_fp32_to_fp16(t < s.tokens ? bias(t, p) : -INFINITY);
        }
    }
    if (poison != 0) { // where nobody looks, or where somebody does
        for (int p = 0; p < s.positions; p++) {
            bool seen = false;
            for (int t = 0; t < s.tokens; t++) {
                seen |= visible(t, p);
            }
            if (seen == in_sight) {
                ((float *) k->data)[(int64_t) p*s.DK*s.kv_heads + 5] = poison;
                if (ggml_turbo_is(type_v)) {
                    ((float *) v->data)[(int64_t) p*s.DV*s.kv_heads + 5] = poison;
                }
            }
        }
    }
    auto cache = [&](ggml_type type, ggml_tensor * rows, int D) {
        ggml_tensor * full = ggml_set_rows(ctx, ggml_new_tensor_2d(ctx, type, D*s.kv_heads, s.positions), rows, where);
        return ggml_permute(ctx, ggml_view_3d(ctx, full, D, s.kv_heads, s.positions, ggml_row_size(type, D), full->nb[1], 0), 0, 2, 1, 3);
    };
    ggml_tensor * kc = cache(type_k, k, s.DK), * vc = cache(type_v, v, s.DV);
    const float scale = 1.0f/sqrtf((float) s.DK);
    ggml_tensor * out = ggml_flash_attn_ext(ctx, q, kc, vc, mask, scale, s.max_bias, s.softcap);
    ggml_tensor * sinks = nullptr;
    if (s.sinks) {
        sinks = fill(ggml_new_tensor_1d(ctx, GGML_TYPE_F32, s.heads), 1.0f, 1000);
        ggml_flash_attn_ext_add_sinks(out, sinks);
    }
    ggml_cgraph * graph = ggml_new_graph(ctx);
    ggml_build_forward_expand(graph, out);
    ggml_graph_compute_with_ctx(ctx, graph, threads);

    Result r;
    r.got.assign((float *) out->data, (float *) out->data + ggml_nelements(out));
    r.want.resize(r.got.size());
    auto rows_of = [&](ggml_tensor * c, int D) { // [kv head][position][D]
        Row all((size_t) s.kv_heads*s.positions*D);
        for (int g = 0; g < s.kv_heads; g++) {
            for (int p = 0; p < s.positions; p++) {
                const char * x = (const char *) c->data + p*c->nb[1] + g*c->nb[2];
                float * y = all.data() + ((size_t) g*s.positions + p)*D;
                if (c->type == GGML_TYPE_F32) {
                    memcpy(y, x, D*sizeof(float));
                } else {
                    ggml_get_type_traits(c->type)->to_float(x, y, D);
                }
            }
        }
        return all;
    };
    const Row K = rows_of(kc, s.DK), V = rows_of(vc, s.DV);
    int n_log2 = 1;
    while (2*n_log2 <= s.heads) {
        n_log2 *= 2;
    }
    for (int h = 0; h < s.heads; h++) {
        const int g = h/(s.heads/s.kv_heads);
        const double slope = s.max_bias <= 0 ? 1 : h < n_log2 ? pow(2, -s.max_bias*(h + 1)/n_log2) : pow(2, -s.max_bias/2*(2*(h - n_log2) + 1)/n_log2);
        for (int t = 0; t < s.tokens; t++) {
            const float * x = (const float *) q->data + ((size_t) h*s.tokens + t)*s.DK;
            std::vector<double> logit(s.positions, -INFINITY), sum(s.DV, 0.0);
            double top = sinks ? ((float *) sinks->data)[h] : -INFINITY, total = 0;
            for (int p = 0; p < s.positions; p++) {
                if (visible(t, p)) {
                    double dot = 0;
                    for (int c = 0; c < s.DK; c++) {
                        dot += (double) x[c]*K[((size_t) g*s.positions + p)*s.DK + c];
                    }
                    dot *= scale;
                    logit[p] = (s.softcap > 0 ? s.softcap*tanh(dot/s.softcap) : dot) + slope*bias(t, p);
                    top = std::max(top, logit[p]);
                }
            }
            for (int p = 0; p < s.positions; p++) {
                if (visible(t, p)) {
                    const double w = exp(logit[p] - top);
                    total += w;
                    for (int c = 0; c < s.DV; c++) {
                        sum[c] += w*V[((size_t) g*s.positions + p)*s.DV + c];
                    }
                }
            }
            if (sinks) {
                total += exp(((float *) sinks->data)[h] - top);
            }
            for (int c = 0; c < s.DV; c++) {
                r.want[((size_t) t*s.heads + h)*s.DV + c] = total > 0 ? (float) (sum[c]/total) : 0.0f;
            }
        }
    }
    ggml_free(ctx);
    return r;
}

static const ggml_type PARTNERS[] = {
    GGML_TYPE_F32, GGML_TYPE_F16, GGML_TYPE_BF16, GGML_TYPE_Q8_0, GGML_TYPE_Q5_1, GGML_TYPE_Q5_0, GGML_TYPE_Q4_1, GGML_TYPE_Q4_0,
    GGML_TYPE_IQ4_NL, GGML_TYPE_TURBO4, GGML_TYPE_TURBO3, GGML_TYPE_TURBO2,
};

static void test_pairs() {
    const Shape shapes[] = {
        // DK   DV  tok heads kv  pos   causal sinks softcap bias
        { 128, 128,   1,  8,  2, 1333, true,  false,  0.0f, 0.0f },
        { 128, 128,   5,  8,  2,  200, true,  true,   0.0f, 0.0f },
        { 256, 256,   1,  4,  1,  700, true,  false,  0.0f, 0.0f },
        { 256, 128,  80,  6,  1,  333, true,  false, 20.0f, 0.0f },
        { 128, 256,  33,  3,  3,   77, false, true,   0.0f, 8.0f },
        { 512, 512,   3,  2,  1,  130, true,  false,  0.0f, 0.0f },
    };
    int n = 0;
    double worst = 0;
    for (ggml_type k : PARTNERS) {
        for (ggml_type v : PARTNERS) {
            if (!ggml_turbo_is(k) && !ggml_turbo_is(v)) {
                continue;
            }
            for (const Shape & s : shapes) {
                const Result r = attend(k, v, s, 2);
                const double e = nmse(r.got, r.want);
                worst = std::max(worst, e);
                n++;
                check(e <= 5e-4, "pairs", text("K %s, V %s, D %d/%d, %d tokens, %d positions: NMSE %.2e", ggml_type_name(k), ggml_type_name(v), s.DK, s.DV, s.tokens, s.positions, e));
            }
        }
    }
    printf("pairs   %d of K, V, shape: SET_ROWS then FLASH_ATTN_EXT, worst NMSE %.1e\n", n, worst);
}

static void test_threads() {
    const Shape shapes[] = {
        { 128, 128,   1,  8,  2, 3000, true, false, 0.0f, 0.0f },
        { 128, 128,   7,  8,  2, 1500, true, true,  0.0f, 0.0f },
        { 256, 256, 100,  4,  1,  500, true, false, 0.0f, 0.0f },
    };
    const ggml_type pairs[][2] = {
        { GGML_TYPE_TURBO4, GGML_TYPE_TURBO4 }, { GGML_TYPE_TURBO3, GGML_TYPE_TURBO2 }, { GGML_TYPE_Q8_0, GGML_TYPE_TURBO4 }, { GGML_TYPE_TURBO4, GGML_TYPE_F16 },
    };
    for (const auto & pair : pairs) {
        for (const Shape & s : shapes) {
            const Row one = attend(pair[0], pair[1], s, 1).got;
            for (int threads : { 2, 3, 5 }) {
                const Row many = attend(pair[0], pair[1], s, threads).got;
                check(!memcmp(one.data(), many.data(), one.size()*sizeof(float)), "threads", text("%s/%s: %d threads give other bits than one", ggml_type_name(pair[0]), ggml_type_name(pair[1]), threads));
            }
        }
    }
    printf("threads 1, 2, 3 and 5 give the same bits\n");
}

static void test_hidden() {
    const Shape s = { 128, 128, 4, 8, 2, 500, true, false, 0.0f, 0.0f };
    for (ggml_type k : TURBO) {
        for (ggml_type v : { GGML_TYPE_TURBO4, GGML_TYPE_F16 }) {
            const Row clean = attend(k, v, s, 2).got, got = attend(k, v, s, 2, NAN).got;
            bool finite = true;
            for (float x : got) {
                finite = finite && std::isfinite(x);
            }
            check(finite && nmse(got, clean) < 1e-10, "hidden", text("%s/%s: a masked position with a NaN is seen", ggml_type_name(k), ggml_type_name(v)));
        }
    }
    for (ggml_type k : TURBO) { // no other position in the tile gives the softmax a maximum
        const Row got = attend(k, GGML_TYPE_TURBO4, { 128, 128, 1, 2, 1, 2, false, false, 0.0f, 0.0f }, 1, NAN, true).got;
        check(std::all_of(got.begin(), got.end(), [](float x) { return std::isnan(x); }), "hidden", text("%s: a NaN in sight vanishes", ggml_type_name(k)));
    }
    printf("hidden  masked positions do not show, whatever they hold; what is seen does\n");
}

int main(int argc, char ** argv) {
    test_codec();
    if (argc > 1) {
        test_golden(argv[1]);
    }
    test_pairs();
    test_threads();
    test_hidden();
    printf(failures ? "%d checks failed\n" : "all checks passed\n", failures);
    return failures ? 1 : 0;
}
