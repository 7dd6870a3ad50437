"""A Metal backend of a few lines, with one kernel of each kind that the checks look at."""

from pathlib import Path

IMPL = """\
#ifndef GGML_METAL_IMPL
#define GGML_METAL_IMPL
#define FC_SCALE 300
typedef struct {
    int32_t n;
} ggml_metal_kargs_scale;
typedef struct {
    int32_t n;
} ggml_metal_kargs_other;
#endif
"""
COMMON = """\
#pragma once
#include "ggml-metal-impl.h"
#include <metal_stdlib>
using namespace metal;
"""
KERNELS = """\
#include "common.h"

constant bool FC_scale_twice [[function_constant(FC_SCALE + 0)]];
constant int  FC_scale_by    [[function_constant(FC_SCALE + 1)]];

static inline float scaled(float x) { return FC_scale_twice ? 2*x : FC_scale_by*x; }

template<typename T>
kernel void kernel_scale(
        constant ggml_metal_kargs_scale & args,
        device const T * src,
        device       T * dst,
        threadgroup float * shared [[threadgroup(0)]],
        uint i [[thread_position_in_grid]]) {
    dst[i] = scaled(src[i]);
}

typedef decltype(kernel_scale<float>) scale_t;
#define SCALE(T, NAME) template [[host_name(#NAME)]] kernel scale_t kernel_scale<T>;
SCALE(float, kernel_scale_f32)
template [[host_name("kernel_scale_f16")]] kernel scale_t kernel_scale<half>;

kernel void kernel_fill(device float * dst, uint i [[thread_position_in_grid]]) { dst[i] = 0; }
"""
DEVICE = """\
ggml_metal_pipeline_with_params ggml_metal_library_get_pipeline_scale(ggml_metal_library_t lib, const ggml_tensor * op) {
    char base[256];
    char name[256];
    snprintf(base, 256, "kernel_scale_%s", ggml_type_name(op->type));
    snprintf(name, 256, "%s_twice=%d", base, 1);
    ggml_metal_cv_set_bool (cv, true, FC_SCALE + 0);
    ggml_metal_cv_set_int32(cv, 3,    FC_SCALE + 1);
    return ggml_metal_library_compile_pipeline(lib, base, name, cv);
}
ggml_metal_pipeline_with_params ggml_metal_library_get_pipeline_fill(ggml_metal_library_t lib) {
    const char * what = lib ? "fill" : "undefined";
    snprintf(base, 256, "kernel_%s", what);
    return ggml_metal_library_compile_pipeline(lib, base, base, nullptr);
}
"""
OPS = """\
int ggml_metal_op_scale(ggml_metal_op_t ctx, int idx) {
    auto pipeline = ggml_metal_library_get_pipeline_scale(lib, op);
    ggml_metal_kargs_scale args = { 1 };
    ggml_metal_encoder_set_pipeline(enc, pipeline);
    ggml_metal_encoder_set_bytes   (enc, &args, sizeof(args), 0);
    ggml_metal_encoder_set_buffer  (enc, bid_src, 1);
    ggml_metal_encoder_set_buffer  (enc, bid_dst, 2);
    ggml_metal_encoder_set_threadgroup_memory_size(enc, 64, 0);
    ggml_metal_encoder_dispatch_threadgroups(enc, n, 1, 1, 32, 1, 1);
    if (n) {
        int at = 0;
        auto pipeline = ggml_metal_library_get_pipeline_fill(lib);
        ggml_metal_encoder_set_pipeline(enc, pipeline);
        ggml_metal_encoder_set_buffer(enc, bid_dst, at++);
        ggml_metal_encoder_dispatch_threadgroups(enc, n, 1, 1, 32, 1, 1);
    }
    return 1;
}
"""
OBJC = """\
#define GGML_METAL_LIBS \\
    X(SCALE, scale)
bool ggml_metal_device_supports_op(ggml_metal_device_t dev, const struct ggml_tensor * op) {
    switch (op->op) {
        case GGML_OP_CPY:
            {
                switch (op->src[0]->type) {
                    default:
                        return false;
                };
            }
        case GGML_OP_SET_ROWS:
            return false;
    }
}
"""
CMAKE = """\
set(METALLIB_KERNEL_SOURCES
    kernels/scale.metal
)
"""
FILES = {
    "ggml-metal-impl.h": IMPL, "kernels/common.h": COMMON, "kernels/scale.metal": KERNELS,
    "ggml-metal-device.cpp": DEVICE, "ggml-metal-ops.cpp": OPS, "ggml-metal-device.m": OBJC,
    "CMakeLists.txt": CMAKE,
}  # fmt: skip


def write_backend(root: Path, **changes: tuple[str, str]) -> Path:
    """A tree with the backend; `changes` are file (dots and slashes as _) -> old text, new text."""
    folder = root / "ggml" / "src" / "ggml-metal"
    for name, text in FILES.items():
        old, new = changes.pop(name.replace("/", "_").replace(".", "_").replace("-", "_"), ("", ""))
        assert old in text
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace(old, new) if old else text)
    assert not changes
    return root
