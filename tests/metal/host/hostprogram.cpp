// Our host code on an encoder that writes down what it is told: one operator in, launch records out, as JSON.
//
// Input, one item a line: `op NAME`, `params SCALE MAX_BIAS SOFTCAP`, and per tensor in the order dst, src0, src1 ...
// `NAME TYPE ne0 ne1 ne2 ne3 nb0 nb1 nb2 nb3`. What ggml would do for it stands below, for the types that occur.

#include "ggml-impl.h"
#include "ggml-metal-device.h"
#include "ggml-metal-impl.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iostream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

struct kind { ggml_type type; const char * name; size_t size; int64_t block; };
static const kind KINDS[] = {
    { GGML_TYPE_F32, "f32", 4, 1 }, { GGML_TYPE_F16, "f16", 2, 1 }, { GGML_TYPE_I32, "i32", 4, 1 },
    { GGML_TYPE_I64, "i64", 8, 1 }, { GGML_TYPE_Q8_0, "q8_0", 34, 32 }, { GGML_TYPE_Q4_0, "q4_0", 18, 32 },
    { GGML_TYPE_TURBO2, "turbo2", 34, 128 }, { GGML_TYPE_TURBO3, "turbo3", 50, 128 }, { GGML_TYPE_TURBO4, "turbo4", 66, 128 },
};
static const kind & kind_of(ggml_type type) {
    for (const kind & k : KINDS) {
        if (k.type == type) { return k; }
    }
    std::abort();
}

extern "C" {
const char * ggml_type_name(ggml_type type) { return kind_of(type).name; }
size_t  ggml_type_size(ggml_type type) { return kind_of(type).size; }
int64_t ggml_blck_size(ggml_type type) { return kind_of(type).block; }
int64_t ggml_nelements(const ggml_tensor * t) { return t->ne[0]*t->ne[1]*t->ne[2]*t->ne[3]; }
size_t  ggml_nbytes(const ggml_tensor * t) {
    size_t n = t->ne[0]/kind_of(t->type).block*kind_of(t->type).size;
    for (int i = 1; i < 4; i++) { n += (t->ne[i] - 1)*t->nb[i]; }
    return n;
}
void ggml_abort(const char * file, int line, const char * text, ...) {
    fprintf(stderr, "%s:%d: %s\n", file, line, text);
    exit(3);
}

struct ggml_metal_cv { std::map<int, int> values; };
struct ggml_metal_pipeline { std::string base; std::map<int, int> values; };

ggml_metal_cv_t ggml_metal_cv_init(void) { return new ggml_metal_cv(); }
void ggml_metal_cv_free(ggml_metal_cv_t cv) { delete cv; }
void ggml_metal_cv_set_int16(ggml_metal_cv_t cv, int16_t value, int32_t idx) { cv->values[idx] = value; }
void ggml_metal_cv_set_int32(ggml_metal_cv_t cv, int32_t value, int32_t idx) { cv->values[idx] = value; }
void ggml_metal_cv_set_bool (ggml_metal_cv_t cv, bool value, int32_t idx) { cv->values[idx] = value; }

ggml_metal_pipeline_with_params ggml_metal_library_get_pipeline(ggml_metal_library_t, const char *) { return {}; }
ggml_metal_pipeline_with_params ggml_metal_library_compile_pipeline(ggml_metal_library_t, const char * base, const char *, ggml_metal_cv_t cv) {
    ggml_metal_pipeline_with_params res = {};
    res.pipeline = new ggml_metal_pipeline{ base, cv ? cv->values : std::map<int, int>() };
    return res;
}
int ggml_metal_pipeline_max_theads_per_threadgroup(ggml_metal_pipeline_with_params) { return 1024; }

static ggml_metal_pipeline_with_params helper(const char * base, std::map<int, int> values) {
    ggml_metal_cv cv = { values };
    return ggml_metal_library_compile_pipeline(nullptr, base, base, &cv);
}
ggml_metal_pipeline_with_params ggml_metal_library_get_pipeline_flash_attn_ext_pad(ggml_metal_library_t, const ggml_tensor *, bool has_mask, int32_t ncpsg) {
    return helper("kernel_flash_attn_ext_pad", { { FC_FLASH_ATTN_EXT_PAD, has_mask }, { FC_FLASH_ATTN_EXT_PAD + 25, ncpsg } });
}
ggml_metal_pipeline_with_params ggml_metal_library_get_pipeline_flash_attn_ext_blk(ggml_metal_library_t, const ggml_tensor *, int32_t nqptg, int32_t ncpsg) {
    return helper("kernel_flash_attn_ext_blk", { { FC_FLASH_ATTN_EXT_BLK + 24, nqptg }, { FC_FLASH_ATTN_EXT_BLK + 25, ncpsg } });
}
ggml_metal_pipeline_with_params ggml_metal_library_get_pipeline_flash_attn_ext_vec_reduce(ggml_metal_library_t, const ggml_tensor *, int32_t dv, int32_t nwg) {
    return helper("kernel_flash_attn_ext_vec_reduce", { { FC_FLASH_ATTN_EXT_VEC_REDUCE, dv }, { FC_FLASH_ATTN_EXT_VEC_REDUCE + 1, nwg } });
}

// ---- the encoder

static ggml_metal_pipeline_t pipeline;
static std::map<int, std::string> bound;
static std::map<int, size_t> memory;
static std::vector<std::string> launches;

void ggml_metal_encoder_set_pipeline(ggml_metal_encoder_t, ggml_metal_pipeline_with_params p) {
    pipeline = p.pipeline;
    bound.clear();
    memory.clear();
}
void ggml_metal_encoder_set_bytes(ggml_metal_encoder_t, void * data, size_t size, int idx) {
    std::string hex;
    for (size_t i = 0; i < size; i++) {
        char text[3];
        snprintf(text, sizeof(text), "%02x", ((uint8_t *) data)[i]);
        hex += text;
    }
    bound[idx] = "\"" + hex + "\"";
}
void ggml_metal_encoder_set_buffer(ggml_metal_encoder_t, ggml_metal_buffer_id buffer, int idx) {
    bound[idx] = std::string("[\"") + ((ggml_tensor *) buffer.metal)->name + "\", " + std::to_string(buffer.offs) + "]";
}
void ggml_metal_encoder_set_threadgroup_memory_size(ggml_metal_encoder_t, size_t size, int idx) { memory[idx] = size; }
void ggml_metal_encoder_dispatch_threadgroups(ggml_metal_encoder_t, int g0, int g1, int g2, int t0, int t1, int t2) {
    std::ostringstream out;
    out << "{\"kernel\": \"" << pipeline->base << "\", \"constants\": {";
    const char * comma = "";
    for (auto & [index, value] : pipeline->values) { out << comma << "\"" << index << "\": " << value; comma = ", "; }
    out << "}, \"buffers\": {";
    comma = "";
    for (auto & [index, text] : bound) { out << comma << "\"" << index << "\": " << text; comma = ", "; }
    out << "}, \"threadgroup\": [";
    comma = "";
    for (auto & [index, size] : memory) { out << comma << size; comma = ", "; (void) index; }
    out << "], \"grid\": [" << g0 << ", " << g1 << ", " << g2 << "], \"threads\": [" << t0 << ", " << t1 << ", " << t2 << "]}";
    launches.push_back(out.str());
}
}

struct ggml_metal_op {
    ggml_metal_library_t lib;
    ggml_metal_encoder_t enc;
    ggml_tensor * tensor;
    ggml_tensor * node(int) { return tensor; }
};
typedef ggml_metal_op * ggml_metal_op_t;
static ggml_metal_buffer_id ggml_metal_get_buffer_id(const ggml_tensor * t) { return { (void *) t, 0 }; }
static bool ggml_metal_op_concurrency_reset(ggml_metal_op_t) {
    launches.push_back("\"barrier\"");
    return true;
}

#include "ggml-metal-turbo-ops.h"

static ggml_op op_of(const std::string & name) {
    return name == "FLASH_ATTN_EXT" ? GGML_OP_FLASH_ATTN_EXT : name == "SET_ROWS" ? GGML_OP_SET_ROWS :
           name == "CPY" ? GGML_OP_CPY : name == "GET_ROWS" ? GGML_OP_GET_ROWS : GGML_OP_MUL_MAT;
}

int main() {
    std::vector<ggml_tensor *> tensors;
    ggml_op op = GGML_OP_NONE;
    float params[3] = {};
    std::string line;
    while (std::getline(std::cin, line)) {
        std::istringstream in(line);
        std::string first, type;
        in >> first >> type;
        if (first == "op") { op = op_of(type); continue; }
        if (first == "params") { params[0] = std::stof(type); in >> params[1] >> params[2]; continue; }
        ggml_tensor * t = new ggml_tensor();
        snprintf(t->name, sizeof(t->name), "%s", first.c_str());
        for (const kind & k : KINDS) {
            if (type == k.name) { t->type = k.type; }
        }
        for (auto & n : t->ne) { in >> n; }
        for (auto & n : t->nb) { in >> n; }
        tensors.push_back(first == "-" ? nullptr : t);
    }
    ggml_tensor * dst = tensors[0];
    dst->op = op;
    memcpy(dst->op_params, params, sizeof(params));
    for (size_t i = 1; i < tensors.size(); i++) { dst->src[i - 1] = tensors[i]; }

    const bool supported = ggml_metal_turbo_supports(dst, true, true);
    size_t extra = 0;
    if (supported) {
        extra = op == GGML_OP_FLASH_ATTN_EXT ? ggml_metal_turbo_extra(dst) : 0;
        ggml_metal_op ctx = { nullptr, nullptr, dst };
        ggml_metal_op_turbo(&ctx, 0);
    }
    std::cout << "{\"concerns\": " << ggml_metal_turbo_concerns(dst) << ", \"supports\": " << supported
              << ", \"extra\": " << extra << ", \"steps\": [";
    for (size_t i = 0; i < launches.size(); i++) { std::cout << (i ? ", " : "") << launches[i]; }
    std::cout << "]}\n";
}
