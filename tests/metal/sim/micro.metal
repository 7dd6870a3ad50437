// One kernel per kind of defect, each with a correct twin. The line that a finding must name ends in `FIND: kind`.
#include <metal_stdlib>
using namespace metal;

struct args_t {
  int n;
};

kernel void past_end(device const float *x, device float *y, uint i [[thread_position_in_grid]]) {
  y[i] = x[i + 1]; // FIND: device_out_of_bounds
}
kernel void past_end_good(device const float *x, device float *y, uint i [[thread_position_in_grid]]) {
  y[i] = x[min(i + 1, 63u)];
}

kernel void before_start(device float *x, uint i [[thread_position_in_grid]]) {
  device float *p = x - 4;
  p[i] = 1.0; // FIND: device_out_of_bounds
}
kernel void before_start_good(device float *x, uint i [[thread_position_in_grid]]) {
  device float *p = x - 4;
  p[i + 4] = 1.0;
}

kernel void private_array(constant args_t &a, device float *y, uint i [[thread_position_in_grid]]) {
  float t[4] = {1, 2, 3, 4};
  y[i] = t[(i + a.n) & 7]; // FIND: private_out_of_bounds
}
kernel void private_array_good(constant args_t &a, device float *y, uint i [[thread_position_in_grid]]) {
  float t[4] = {1, 2, 3, 4};
  y[i] = t[(i + a.n) & 3];
}

kernel void component(constant args_t &a, device float *y, uint i [[thread_position_in_grid]]) {
  float4 v = float4(1, 2, 3, 4);
  y[i] = v[(i + a.n) & 7]; // FIND: private_out_of_bounds
}
kernel void component_good(constant args_t &a, device float *y, uint i [[thread_position_in_grid]]) {
  float4 v = float4(1, 2, 3, 4);
  y[i] = v[(i + a.n) & 3];
}

kernel void tg_past_end(device float *y, uint i [[thread_index_in_threadgroup]],
                        threadgroup float *s [[threadgroup(0)]]) {
  s[i + 1] = i; // FIND: threadgroup_out_of_bounds
  threadgroup_barrier(mem_flags::mem_threadgroup);
  y[i] = s[min(i + 1, 63u)];
}
kernel void tg_past_end_good(device float *y, uint i [[thread_index_in_threadgroup]],
                             threadgroup float *s [[threadgroup(0)]]) {
  s[i] = i;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  y[i] = s[min(i + 1, 63u)];
}

kernel void misaligned(device const char *x, device float *y, uint i [[thread_position_in_grid]]) {
  y[i] = ((device const float4 *)(x + 8))[i % 4].x; // FIND: misaligned_access
}
kernel void misaligned_good(device const char *x, device float *y, uint i [[thread_position_in_grid]]) {
  y[i] = ((device const float4 *)(x + 16))[i % 4].x;
}

kernel void race(device float *y, uint i [[thread_index_in_threadgroup]], threadgroup float *s [[threadgroup(0)]]) {
  s[i] = i;
  y[i] = s[i ^ 32]; // FIND: threadgroup_race
}
kernel void race_good(device float *y, uint i [[thread_index_in_threadgroup]],
                      threadgroup float *s [[threadgroup(0)]]) {
  s[i] = i;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  y[i] = s[i ^ 32];
}

kernel void reuse(device float *y, uint i [[thread_index_in_threadgroup]], threadgroup float *s [[threadgroup(0)]]) {
  s[i] = i;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  float v = s[63 - i];
  s[i] = v; // FIND: threadgroup_race
  threadgroup_barrier(mem_flags::mem_threadgroup);
  y[i] = s[i];
}
kernel void reuse_good(device float *y, uint i [[thread_index_in_threadgroup]],
                       threadgroup float *s [[threadgroup(0)]]) {
  s[i] = i;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  float v = s[63 - i];
  threadgroup_barrier(mem_flags::mem_threadgroup);
  s[i] = v;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  y[i] = s[i];
}

kernel void in_step(device float *y, uint i [[thread_index_in_threadgroup]], threadgroup float *s [[threadgroup(0)]]) {
  s[i] = i;
  y[i] = s[i ^ 1]; // FIND: simdgroup_race
}
kernel void in_step_good(device float *y, uint i [[thread_index_in_threadgroup]],
                         threadgroup float *s [[threadgroup(0)]]) {
  s[i] = i;
  simdgroup_barrier(mem_flags::mem_threadgroup);
  y[i] = s[i ^ 1];
}

kernel void level_only(device float *y, uint i [[thread_index_in_threadgroup]],
                       threadgroup float *s [[threadgroup(0)]]) {
  s[i] = i;
  float v = simd_shuffle_xor(float(i), 1);
  y[i] = v + s[i ^ 2]; // FIND: simdgroup_unordered
}
kernel void level_only_good(device float *y, uint i [[thread_index_in_threadgroup]],
                            threadgroup float *s [[threadgroup(0)]]) {
  s[i] = i;
  float v = simd_shuffle_xor(float(i), 1);
  simdgroup_barrier(mem_flags::mem_threadgroup);
  y[i] = v + s[i ^ 2];
}

kernel void reuse_level(device float *y, uint i [[thread_index_in_threadgroup]],
                    threadgroup float *s [[threadgroup(0)]]) {
  threadgroup float *own = s + i / 32 * 32;
  own[i % 32] = i;
  simdgroup_barrier(mem_flags::mem_threadgroup);
  float v = simd_sum(own[31 - i % 32]);
  own[i % 32] = v; // FIND: simdgroup_unordered
  simdgroup_barrier(mem_flags::mem_threadgroup);
  y[i] = own[31 - i % 32];
}
kernel void reuse_level_good(device float *y, uint i [[thread_index_in_threadgroup]],
                         threadgroup float *s [[threadgroup(0)]]) {
  threadgroup float *own = s + i / 32 * 32;
  own[i % 32] = i;
  simdgroup_barrier(mem_flags::mem_threadgroup);
  float v = simd_sum(own[31 - i % 32]);
  simdgroup_barrier(mem_flags::mem_threadgroup);
  own[i % 32] = v;
  simdgroup_barrier(mem_flags::mem_threadgroup);
  y[i] = own[31 - i % 32];
}

kernel void no_memory(device float *y, uint i [[thread_index_in_threadgroup]],
                      threadgroup float *s [[threadgroup(0)]]) {
  s[i] = i;
  threadgroup_barrier(mem_flags::mem_none);
  y[i] = s[i ^ 32]; // FIND: threadgroup_race
}
kernel void no_memory_good(device float *y, uint i [[thread_index_in_threadgroup]],
                           threadgroup float *s [[threadgroup(0)]]) {
  s[i] = i;
  threadgroup_barrier(mem_flags::mem_none);
  threadgroup_barrier(mem_flags::mem_device | mem_flags::mem_threadgroup);
  y[i] = s[i ^ 32];
}

kernel void groups(device float *y, uint i [[thread_index_in_threadgroup]],
                   uint g [[threadgroup_position_in_grid]]) {
  y[i] = y[i] + g; // FIND: device_race
}
kernel void groups_good(device float *y, uint i [[thread_index_in_threadgroup]],
                        uint g [[threadgroup_position_in_grid]]) {
  if (g == 0)
    y[i] = y[i] + g;
}

kernel void unwritten(device float *y, uint i [[thread_index_in_threadgroup]],
                      threadgroup float *s [[threadgroup(0)]]) {
  if (i < 32)
    s[i] = i;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  y[i] = s[i]; // FIND: uninitialised_threadgroup_read
}
kernel void unwritten_good(device float *y, uint i [[thread_index_in_threadgroup]],
                           threadgroup float *s [[threadgroup(0)]]) {
  s[i] = i < 32 ? i : 0;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  y[i] = s[i];
}

kernel void half_barrier(device float *y, uint i [[thread_index_in_threadgroup]],
                         threadgroup float *s [[threadgroup(0)]]) {
  s[i] = i;
  if (i < 32) {
    threadgroup_barrier(mem_flags::mem_threadgroup); // FIND: barrier_with_exited_threads
  }
  y[i] = s[i];
}
kernel void half_barrier_good(device float *y, uint i [[thread_index_in_threadgroup]],
                              threadgroup float *s [[threadgroup(0)]]) {
  s[i] = i;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  y[i] = s[i];
}

kernel void two_barriers(device float *y, uint i [[thread_index_in_threadgroup]]) {
  if (i < 32) {
    threadgroup_barrier(mem_flags::mem_threadgroup);
  } else {
    threadgroup_barrier(mem_flags::mem_threadgroup); // FIND: divergent_barrier
  }
  y[i] = i;
}
kernel void two_barriers_good(device float *y, uint i [[thread_index_in_threadgroup]]) {
  threadgroup_barrier(mem_flags::mem_threadgroup);
  y[i] = i;
}

kernel void exited_lanes(device float *y, uint i [[thread_index_in_threadgroup]]) {
  if (i % 2)
    return;
  y[i] = simd_sum(float(i)); // FIND: simd_function_with_exited_lanes
}
kernel void exited_lanes_good(device float *y, uint i [[thread_index_in_threadgroup]]) {
  float s = simd_sum(float(i));
  if (i % 2)
    return;
  y[i] = s;
}

kernel void branches(device float *y, uint i [[thread_index_in_threadgroup]]) {
  float v = i;
  if (i % 2) {
    v = simd_sum(v); // FIND: divergent_simd_function
  } else {
    v = simd_max(v);
  }
  simdgroup_barrier(mem_flags::mem_none);
  y[i] = v;
}
kernel void branches_good(device float *y, uint i [[thread_index_in_threadgroup]]) {
  float a = simd_sum(float(i)), b = simd_max(float(i));
  y[i] = i % 2 ? a : b;
}

kernel void inactive_source(device float *y, uint i [[thread_index_in_threadgroup]]) {
  if (i % 32 == 5)
    return;
  y[i] = simd_broadcast(float(i), 5); // FIND: shuffle_from_inactive_lane
}
kernel void inactive_source_good(device float *y, uint i [[thread_index_in_threadgroup]]) {
  float v = simd_broadcast(float(i), 5);
  y[i] = v;
}

kernel void division(constant args_t &a, device int *y, uint i [[thread_index_in_threadgroup]]) {
  y[i] = int(i) / (a.n - 4); // FIND: division_by_zero
}
kernel void division_good(constant args_t &a, device int *y, uint i [[thread_index_in_threadgroup]]) {
  y[i] = int(i) / a.n;
}

kernel void shift(constant args_t &a, device uint *y, uint i [[thread_index_in_threadgroup]]) {
  y[i] = 1u << (a.n * 8 + i); // FIND: shift_out_of_range
}
kernel void shift_good(constant args_t &a, device uint *y, uint i [[thread_index_in_threadgroup]]) {
  y[i] = 1u << ((a.n * 8 + i) & 31);
}

kernel void private_pointer(constant args_t &a, device float *y, uint i [[thread_position_in_grid]]) {
  float t[4] = {1, 2, 3, 4};
  thread float *p = t;
  y[i] = p[(i + a.n) & 7]; // FIND: private_out_of_bounds
}
kernel void private_pointer_good(constant args_t &a, device float *y, uint i [[thread_position_in_grid]]) {
  float t[4] = {1, 2, 3, 4};
  thread float *p = t;
  y[i] = p[(i + a.n) & 3];
}

template <typename T> T pick(thread T *p, int i) {
  return p[i]; // FIND: private_out_of_bounds
}
template <typename T> T pick_good(thread T *p, int i) { return p[i & 3]; }
kernel void through_function(constant args_t &a, device float *y, uint i [[thread_position_in_grid]]) {
  float t[4] = {1, 2, 3, 4};
  y[i] = pick(t, (i + a.n) & 7);
}
kernel void through_function_good(constant args_t &a, device float *y, uint i [[thread_position_in_grid]]) {
  float t[4] = {1, 2, 3, 4};
  y[i] = pick_good(t, (i + a.n) & 7);
}

kernel void unrolled(constant args_t &a, device float *y, uint i [[thread_position_in_grid]]) {
  float t[4] = {1, 2, 3, 4}, sum = a.n;
  thread float *p = t;
#pragma unroll
  for (short k = 0; k <= 4; k++)
    sum += p[k]; // FIND: private_out_of_bounds
  y[i] = sum;
}
kernel void unrolled_good(constant args_t &a, device float *y, uint i [[thread_position_in_grid]]) {
  float t[4] = {1, 2, 3, 4}, sum = a.n;
  thread float *p = t;
#pragma unroll
  for (short k = 0; k < 4; k++)
    sum += p[k];
  y[i] = sum;
}

kernel void variables(device float *y, uint i [[thread_index_in_threadgroup]]) {
  threadgroup float s[64];
  threadgroup float t[64];
  threadgroup float *p = i < 32 ? s : t;
  p[i % 32 + 33] = i; // FIND: threadgroup_out_of_bounds
  threadgroup_barrier(mem_flags::mem_threadgroup);
  y[i] = p[i % 32 + 32];
}
kernel void variables_good(device float *y, uint i [[thread_index_in_threadgroup]]) {
  threadgroup float s[64], t[64];
  threadgroup float *p = i < 32 ? s : t;
  p[i % 32 + 32] = i;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  y[i] = p[i % 32 + 32];
}

kernel void arguments(device float *y, uint i [[thread_index_in_threadgroup]],
                      threadgroup float *s [[threadgroup(0)]], threadgroup float *t [[threadgroup(1)]]) {
  s[i + 1] = i; // FIND: threadgroup_out_of_bounds
  t[i] = i;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  y[i] = t[63 - i];
}
kernel void arguments_good(device float *y, uint i [[thread_index_in_threadgroup]],
                           threadgroup float *s [[threadgroup(0)]], threadgroup float *t [[threadgroup(1)]]) {
  s[i] = i;
  t[i] = i;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  y[i] = t[63 - i] + s[63 - i];
}

kernel void too_much(device float *y, uint i [[thread_index_in_threadgroup]]) {
  threadgroup float s[8193]; // FIND: threadgroup_memory_limit
  s[i] = i;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  y[i] = s[63 - i];
}
kernel void too_much_good(device float *y, uint i [[thread_index_in_threadgroup]]) {
  threadgroup float s[8192];
  s[i] = i;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  y[i] = s[63 - i];
}

kernel void other_memory(device float *y, uint i [[thread_index_in_threadgroup]],
                         threadgroup float *s [[threadgroup(0)]]) {
  s[i] = i;
  threadgroup_barrier(mem_flags::mem_device);
  y[i] = s[i ^ 32]; // FIND: threadgroup_race
}
kernel void other_memory_good(device float *y, uint i [[thread_index_in_threadgroup]],
                              threadgroup float *s [[threadgroup(0)]]) {
  s[i] = i;
  threadgroup_barrier(mem_flags::mem_device | mem_flags::mem_threadgroup);
  y[i] = s[i ^ 32];
}

kernel void no_memory_lanes(device float *y, uint i [[thread_index_in_threadgroup]],
                      threadgroup float *s [[threadgroup(0)]]) {
  s[i] = i;
  simdgroup_barrier(mem_flags::mem_none);
  y[i] = s[i ^ 1]; // FIND: simdgroup_unordered
}
kernel void no_memory_lanes_good(device float *y, uint i [[thread_index_in_threadgroup]],
                           threadgroup float *s [[threadgroup(0)]]) {
  s[i] = i;
  simdgroup_barrier(mem_flags::mem_threadgroup);
  simdgroup_barrier(mem_flags::mem_none);
  y[i] = s[i ^ 1];
}

kernel void within_group(device float *y, uint i [[thread_index_in_threadgroup]]) {
  y[i] = i;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  float v = y[i ^ 32]; // FIND: device_race
  threadgroup_barrier(mem_flags::mem_device);
  y[i] = v;
}
kernel void within_group_good(device float *y, uint i [[thread_index_in_threadgroup]]) {
  y[i] = i;
  threadgroup_barrier(mem_flags::mem_device);
  float v = y[i ^ 32];
  threadgroup_barrier(mem_flags::mem_device);
  y[i] = v;
}

// A barrier that names no memory still keeps a read before the next write.
kernel void read_then_written(device float *y, uint i [[thread_index_in_threadgroup]],
                              threadgroup float *s [[threadgroup(0)]]) {
  s[i] = i;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  float v = simd_max(s[i ^ 33]);
  s[i] = v; // FIND: threadgroup_race
  y[i] = v;
}
kernel void read_then_written_good(device float *y, uint i [[thread_index_in_threadgroup]],
                                   threadgroup float *s [[threadgroup(0)]]) {
  s[i] = i;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  float v = simd_max(s[i ^ 33]);
  threadgroup_barrier(mem_flags::mem_none);
  s[i] = v;
  y[i] = v;
}

kernel void read_again_good(device float *y, uint i [[thread_index_in_threadgroup]],
                            threadgroup float *s [[threadgroup(0)]]) {
  s[i] = i;
  simdgroup_barrier(mem_flags::mem_threadgroup);
  float v = s[i ^ 1];
  simdgroup_barrier(mem_flags::mem_threadgroup);
  v += s[i];
  s[i] = v;
  y[i] = v;
}
// Bytes that one thread writes and words that another reads are the same memory.
kernel void bytes_and_words(device float *y, uint i [[thread_index_in_threadgroup]],
                            threadgroup uchar *s [[threadgroup(0)]]) {
  s[i] = uchar(i);
  y[i] = ((threadgroup uint *)s)[i / 4 ^ 8]; // FIND: threadgroup_race
}
kernel void bytes_and_words_good(device float *y, uint i [[thread_index_in_threadgroup]],
                                 threadgroup uchar *s [[threadgroup(0)]]) {
  s[i] = uchar(i);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  y[i] = ((threadgroup uint *)s)[i / 4 ^ 8];
}
kernel void bytes_of_buffer(device uchar *y, uint i [[thread_index_in_threadgroup]]) {
  if (i < 32) {
    y[i] = uchar(i);
  } else if (i < 40) {
    *(device uint *)(y + 4 * (i - 32)) = i; // FIND: device_race
  }
}
kernel void bytes_of_buffer_good(device uchar *y, uint i [[thread_index_in_threadgroup]]) {
  y[i] = uchar(i);
  threadgroup_barrier(mem_flags::mem_device);
  if (i < 8)
    *(device uint *)(y + 4 * i) = i;
}
kernel void neighbours_good(device float *y, uint i [[thread_index_in_threadgroup]],
                            threadgroup uchar *s [[threadgroup(0)]]) {
  s[i] = uchar(i);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  y[i] = s[i ^ 32] + ((threadgroup ushort *)s)[i / 2];
}

kernel void local_good(device float *y, uint i [[thread_index_in_threadgroup]]) {
  threadgroup float s[64];
  s[i] = 2 * i;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  y[i] = s[63 - i];
}
kernel void crossing_good(device float *y, uint i [[thread_index_in_threadgroup]],
                          threadgroup float *s [[threadgroup(0)]]) {
  s[i] = i;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  y[i] = simd_shuffle_xor(s[i ^ 32], 5);
}
kernel void forever(device float *y, uint i [[thread_index_in_threadgroup]]) {
  while (y[i] == 0) {
  }
}

template <typename T> kernel void scale(constant args_t &a, device const T *x [[buffer(2)]], device T *y,
                                        uint i [[thread_position_in_grid]]) {
  y[i] = x[i] * T(a.n) * 0.5;
}
typedef decltype(scale<float>) scale_t;
typedef decltype(scale<half>) scale_h;
template [[host_name("scale_f32")]] kernel scale_t scale<float>;
template [[host_name("scale_f16")]] kernel scale_h scale<half>;
