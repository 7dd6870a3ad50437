// llama-kv-stats: sums of K and Q per channel, as they go into the cache and into attention.
//
// Runs a model over a text and writes one JSON document ("tqconvert.kv-stats/1"). The cache is f16 whatever the file's
// tags say, so that nothing is rotated or centred; sums are those of the f32 values before rounding.

#include "ggml-backend.h"
#include "ggml.h"
#include "llama.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

// Attention sinks: the first tokens of a sequence have keys unlike all others.
static const int N_SKIP = 8;

struct options {
    std::string model;
    std::string text;
    std::string out;
    int n_ctx     = 2048;
    int n_chunks  = -1;
    int n_threads = std::max(1u, std::thread::hardware_concurrency());
    int n_gpu     = 0;
};

struct sums {
    int64_t n = 0; // rows
    std::vector<double> sum;
    std::vector<double> sq;

    void add(const float * row, size_t at, size_t n_values) {
        if (sum.size() < at + n_values) {
            sum.resize(at + n_values);
            sq.resize(at + n_values);
        }
        for (size_t i = 0; i < n_values; ++i) {
            sum[at + i] += row[i];
            sq [at + i] += (double) row[i]*row[i];
        }
    }
};

struct layer_stats {
    int64_t head_dim  = 0;
    int64_t n_head    = 0;
    int64_t n_head_kv = 0;
    int64_t n_seen    = 0; // rows of K in this chunk
    sums k;
    sums q;
};

struct collector {
    std::map<int, layer_stats> layers;
    std::vector<uint8_t> buffer;
    bool failed = false;

    // Layer of a K cache's tensor or of a view of it, -1 for any other.
    static int layer_of(const ggml_tensor * t) {
        const ggml_tensor * root = t->view_src ? t->view_src : t;
        int il = -1;
        int n  = 0;
        return sscanf(root->name, "cache_k_l%d%n", &il, &n) == 1 && root->name[n] == '\0' ? il : -1;
    }

    static int watched(const ggml_tensor * t) {
        switch (t->op) {
            case GGML_OP_SET_ROWS:       return layer_of(t);
            case GGML_OP_FLASH_ATTN_EXT: return layer_of(t->src[1]);
            default:                     return -1;
        }
    }

    // The tensor's bytes on the host, laid out by its strides; null if they are no floats.
    const uint8_t * fetch(const ggml_tensor * t) {
        if (t->type != GGML_TYPE_F32 || t->nb[0] != sizeof(float)) {
            failed = true;
            return nullptr;
        }
        buffer.resize(ggml_nbytes(t));
        ggml_backend_tensor_get(t, buffer.data(), 0, buffer.size());
        return buffer.data();
    }

    // rows: [n_head_kv*head_dim, n_tokens]
    void add_k(layer_stats & l, const ggml_tensor * rows) {
        const uint8_t * data = fetch(rows);
        for (int64_t i = 0; data && i < rows->ne[1]; ++i) {
            if (l.n_seen++ < N_SKIP) {
                continue;
            }
            l.k.add((const float *) (data + i*rows->nb[1]), 0, rows->ne[0]);
            ++l.k.n;
        }
    }

    // q: [head_dim, n_tokens, n_head, 1]
    void add_q(layer_stats & l, const ggml_tensor * q) {
        const uint8_t * data = fetch(q);
        if (!data) {
            return;
        }
        for (int64_t h = 0; h < q->ne[2]; ++h) {
            for (int64_t i = 0; i < q->ne[1]; ++i) {
                l.q.add((const float *) (data + h*q->nb[2] + i*q->nb[1]), h*q->ne[0], q->ne[0]);
            }
        }
        l.q.n += q->ne[1];
    }

    static bool callback(ggml_tensor * t, bool ask, void * user_data) {
        auto & self = *(collector *) user_data;
        const int il = watched(t);
        if (ask || il < 0) {
            return il >= 0;
        }
        auto & l = self.layers[il];
        if (t->op == GGML_OP_SET_ROWS) {
            self.add_k(l, t->src[0]);
        } else {
            l.head_dim  = t->src[0]->ne[0];
            l.n_head    = t->src[0]->ne[2];
            l.n_head_kv = t->src[1]->ne[2];
            self.add_q(l, t->src[0]);
        }
        return true;
    }
};

static void print_usage(const char * name) {
    fprintf(stderr,
            "usage: %s -m MODEL -f TEXT -o OUT.json [-c 2048] [--chunks N] [-t N] [-ngl 0]\n"
            "\n"
            "Sums of K and Q per channel over a text, for `tqconvert balance --calibrate`.\n"
            "The first %d rows of K of each chunk of -c tokens are left out.\n", name, N_SKIP);
}

static bool parse_args(int argc, char ** argv, options & opts) {
    const std::map<std::string, std::string *> texts = {
        { "-m", &opts.model }, { "-f", &opts.text }, { "-o", &opts.out },
    };
    const std::map<std::string, int *> numbers = {
        { "-c", &opts.n_ctx }, { "--chunks", &opts.n_chunks }, { "-t", &opts.n_threads }, { "-ngl", &opts.n_gpu },
    };
    for (int i = 1; i < argc; i += 2) {
        const auto text   = texts.find(argv[i]);
        const auto number = numbers.find(argv[i]);
        if (i + 1 == argc || (text == texts.end() && number == numbers.end())) {
            fprintf(stderr, "%s: not known, or its value is missing\n", argv[i]);
            return false;
        }
        if (text != texts.end()) {
            *text->second = argv[i + 1];
        } else {
            *number->second = atoi(argv[i + 1]);
        }
    }
    return !opts.model.empty() && !opts.text.empty() && !opts.out.empty() && opts.n_ctx > 2*N_SKIP && opts.n_threads > 0;
}

static std::vector<llama_token> read_tokens(const llama_vocab * vocab, const std::string & path) {
    std::ifstream file(path, std::ios::binary);
    std::stringstream text;
    text << file.rdbuf();
    const std::string bytes = text.str();
    if (!file || bytes.empty()) {
        return {};
    }
    std::vector<llama_token> tokens(bytes.size() + 8);
    const int n = llama_tokenize(vocab, bytes.data(), bytes.size(), tokens.data(), tokens.size(), true, false);
    tokens.resize(std::max(0, n));
    return tokens;
}

static void write_numbers(FILE * file, const char * name, const std::vector<double> & values) {
    fprintf(file, ", \"%s\": [", name);
    for (size_t i = 0; i < values.size(); ++i) {
        fprintf(file, "%s%.9g", i ? ", " : "", values[i]);
    }
    fprintf(file, "]");
}

static bool write_stats(const std::string & path, const collector & found, int64_t n_tokens, int n_ctx) {
    FILE * file = fopen(path.c_str(), "w");
    if (!file) {
        return false;
    }
    fprintf(file, "{\"schema\": \"tqconvert.kv-stats/1\", \"n_tokens\": %lld, \"n_ctx\": %d, \"skip\": %d, \"layers\": [",
            (long long) n_tokens, n_ctx, N_SKIP);
    const char * comma = "\n";
    for (const auto & [il, l] : found.layers) {
        fprintf(file, "%s{\"layer\": %d, \"head_dim\": %lld, \"n_head\": %lld, \"n_head_kv\": %lld, \"n_k\": %lld",
                comma, il, (long long) l.head_dim, (long long) l.n_head, (long long) l.n_head_kv, (long long) l.k.n);
        write_numbers(file, "k_sum", l.k.sum);
        write_numbers(file, "k_sq",  l.k.sq);
        fprintf(file, ", \"n_q\": %lld", (long long) l.q.n);
        write_numbers(file, "q_sq",  l.q.sq);
        write_numbers(file, "q_sum", l.q.sum);
        fprintf(file, "}");
        comma = ",\n";
    }
    fprintf(file, "\n]}\n");
    return fclose(file) == 0;
}

static llama_context * make_context(llama_model * model, const options & opts, collector & found) {
    llama_context_params params = llama_context_default_params();
    params.n_ctx             = opts.n_ctx;
    params.n_batch           = opts.n_ctx;
    params.n_ubatch          = std::min(opts.n_ctx, 512);
    params.n_threads         = opts.n_threads;
    params.n_threads_batch   = opts.n_threads;
    params.type_k            = GGML_TYPE_F16;
    params.type_v            = GGML_TYPE_F16;
    params.flash_attn_type   = LLAMA_FLASH_ATTN_TYPE_ENABLED;
    params.swa_full          = false;
    params.cb_eval           = collector::callback;
    params.cb_eval_user_data = &found;
    return llama_init_from_model(model, params);
}

static int run(llama_model * model, const options & opts) {
    const llama_vocab * vocab = llama_model_get_vocab(model);

    auto tokens = read_tokens(vocab, opts.text);
    if (tokens.size() <= 2*N_SKIP) {
        fprintf(stderr, "%s: cannot be read, or is too short\n", opts.text.c_str());
        return 1;
    }
    collector found;
    llama_context * ctx = make_context(model, opts, found);
    if (!ctx) {
        return 1;
    }
    int64_t n_tokens = 0;
    const int n_max = (tokens.size() + opts.n_ctx - 1)/opts.n_ctx;
    const int n_chunks = opts.n_chunks < 0 ? n_max : std::min(opts.n_chunks, n_max);
    for (int i = 0; i < n_chunks && !found.failed; ++i) {
        const size_t begin = (size_t) i*opts.n_ctx;
        const int    n     = std::min<size_t>(opts.n_ctx, tokens.size() - begin);
        if (n <= 2*N_SKIP) {
            break;
        }
        if (llama_vocab_get_add_bos(vocab)) {
            tokens[begin] = llama_vocab_bos(vocab);
        }
        for (auto & [il, l] : found.layers) {
            l.n_seen = 0;
        }
        llama_memory_clear(llama_get_memory(ctx), true);
        if (llama_decode(ctx, llama_batch_get_one(tokens.data() + begin, n)) != 0) {
            fprintf(stderr, "chunk %d: decoding failed\n", i);
            llama_free(ctx);
            return 1;
        }
        n_tokens += n;
        fprintf(stderr, "chunk %d of %d\n", i + 1, n_chunks);
    }
    llama_free(ctx);

    if (found.failed || found.layers.empty()) {
        fprintf(stderr, "%s: no attention with K and Q as f32 and a plain KV cache\n", opts.model.c_str());
        return 1;
    }
    if (!write_stats(opts.out, found, n_tokens, opts.n_ctx)) {
        perror(opts.out.c_str());
        return 1;
    }
    return 0;
}

int main(int argc, char ** argv) {
    options opts;
    if (!parse_args(argc, argv, opts)) {
        print_usage(argv[0]);
        return 2;
    }
    llama_log_set([](ggml_log_level level, const char * text, void *) {
        if (level == GGML_LOG_LEVEL_WARN || level == GGML_LOG_LEVEL_ERROR) {
            fputs(text, stderr);
        }
    }, nullptr);
    ggml_backend_load_all();

    llama_model_params params = llama_model_default_params();
    params.n_gpu_layers = opts.n_gpu;
    llama_model * model = llama_model_load_from_file(opts.model.c_str(), params);
    if (!model) {
        return 1;
    }
    const int result = run(model, opts);
    llama_model_free(model);
    return result;
}
