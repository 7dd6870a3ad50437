// The functions of ggml-metal-turbo-binary64.h, one result a thread.
#include <metal_stdlib>

using namespace metal;

#include "ggml-metal-turbo-binary64.h"

kernel void square(device const float * a, device ulong * out, uint i [[thread_position_in_grid]]) {
    out[i] = turbo64_square(a[i]);
}

kernel void add(device const ulong * a, device const ulong * b, device ulong * out, uint i [[thread_position_in_grid]]) {
    out[i] = turbo64_add(a[i], b[i]);
}

kernel void divide(device const ulong * a, device const ulong * b, device ulong * out, uint i [[thread_position_in_grid]]) {
    out[i] = turbo64_divide(a[i], b[i]);
}

kernel void root(device const ulong * a, device ulong * out, uint i [[thread_position_in_grid]]) {
    out[i] = turbo64_sqrt(a[i]);
}

kernel void integer(device const ulong * a, device ulong * out, uint i [[thread_position_in_grid]]) {
    out[i] = turbo64_of(a[i]);
}

kernel void to_float(device const ulong * a, device float * out, uint i [[thread_position_in_grid]]) {
    out[i] = turbo64_to_float(a[i]);
}

kernel void to_half(device const float * a, device ushort * out, uint i [[thread_position_in_grid]]) {
    out[i] = turbo_half_bits(a[i]);
}
