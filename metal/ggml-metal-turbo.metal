// Metal kernels of the KV-cache types turbo2, turbo3, turbo4.
//
// Layouts, threads, memory and what each kernel must equal: README.md beside this file. The reference is
// tqconvert/turbo/codec.py; blocks that a kernel writes are its bytes.
//
// A lane of a simdgroup that owns a block holds the values lane + 32 p, p = 0..3, as the four parts of a float4: the
// first five stages of the transform are shuffles, the last two are local, and codes need no exchange to be packed.

#include "ggml-metal-impl.h"
#include "ggml-metal-turbo-impl.h"

#include <metal_stdlib>

using namespace metal;

#include "ggml-metal-turbo-tables.h"
#include "ggml-metal-turbo-binary64.h"

#define TURBO_BLOCK 128
#define TURBO_UNROLL _Pragma("clang loop unroll(full)")
#define TURBO_NAME(name) #name
// Below any score, and still far from the smallest float: differences of two stay finite.
#define TURBO_LOWEST (-1.0e38f)

// ---- transform

static inline float4 turbo_signs(ushort lane) {
    float4 s;
    TURBO_UNROLL
    for (short p = 0; p < 4; p++) {
        s[p] = turbo_negative[p] >> lane & 1 ? -1.0f : 1.0f;
    }
    return s;
}

// H y of one block, natural order, not normalised. The stages run in the order of the reference, so that the floats are
// its floats.
static inline float4 turbo_hadamard(float4 y, ushort lane) {
#if __METAL_VERSION__ >= 320
#pragma METAL fp math_mode(safe)
#endif
    TURBO_UNROLL
    for (ushort half_width = 1; half_width < 32; half_width *= 2) {
        const float4 other = simd_shuffle_xor(y, half_width);
        y = (lane & half_width) != 0 ? other - y : y + other;
    }
    y = float4(y[0] + y[1], y[0] - y[1], y[2] + y[3], y[2] - y[3]);
    return float4(y[0] + y[2], y[1] + y[3], y[0] - y[2], y[1] - y[3]);
}

// H S x
static inline float4 turbo_rotate(float4 x, ushort lane) { return turbo_hadamard(x*turbo_signs(lane), lane); }

// S H y
static inline float4 turbo_rotate_inverse(float4 y, ushort lane) { return turbo_hadamard(y, lane)*turbo_signs(lane); }

// The four values of a lane, in rows of any stride between values.
static inline float4 turbo_read(device const char * block, uint64_t stride, ushort lane) {
    float4 x;
    TURBO_UNROLL
    for (short p = 0; p < 4; p++) {
        x[p] = *(device const float *) (block + (lane + 32*p)*stride);
    }
    return x;
}

template<bool INVERSE>
kernel void kernel_turbo_wht(
        constant ggml_metal_kargs_turbo_wht & args,
        device const char * src,
        device      float * dst,
        uint   group [[threadgroup_position_in_grid]],
        ushort lane  [[thread_index_in_simdgroup]],
        ushort sg    [[simdgroup_index_in_threadgroup]],
        ushort n_sg  [[simdgroups_per_threadgroup]]) {
    const int block = (int) (group*n_sg + sg);
    if (block >= args.n_blocks) {
        return;
    }
    const int64_t first = (int64_t) block*TURBO_BLOCK;
    const float4  x     = turbo_read(src + first*sizeof(float), sizeof(float), lane);
    const float4  y     = INVERSE ? turbo_rotate_inverse(x, lane) : turbo_rotate(x, lane);
    TURBO_UNROLL
    for (short p = 0; p < 4; p++) {
        dst[first + lane + 32*p] = y[p]*TURBO_RSQRT_128;
    }
}

typedef decltype(kernel_turbo_wht<false>) turbo_wht_t;
template [[host_name("kernel_turbo_wht_f32")]]     kernel turbo_wht_t kernel_turbo_wht<false>;
template [[host_name("kernel_turbo_wht_inv_f32")]] kernel turbo_wht_t kernel_turbo_wht<true>;

// ---- blocks, a simdgroup each

#define TURBO_BYTES(bits) (2 + 16*(bits))

// The codes of a lane's four values.
template<short BITS>
static inline ushort4 turbo_codes(device const uchar * block, ushort lane) {
    device const uchar * qs = block + 2;
    if (BITS == 4) {
        const ushort a = qs[lane], b = qs[lane + 32];
        return ushort4(a & 15, b & 15, a >> 4, b >> 4);
    }
    const ushort low = qs[lane];
    ushort4 codes = ushort4(low & 3, low >> 2 & 3, low >> 4 & 3, low >> 6);
    if (BITS == 3) {
        const ushort top = qs[32 + lane%16] >> 4*(lane/16);
        codes += ushort4(top & 1, top >> 1 & 1, top >> 2 & 1, top >> 3 & 1)*(ushort) 4;
    }
    return codes;
}

template<short BITS>
static inline void turbo_pack(device uchar * block, ushort4 codes, ushort gain, ushort lane) {
    device uchar * qs = block + 2;
    if (lane == 0) {
        *(device ushort *) block = gain;
    }
    if (BITS == 4) {
        qs[lane]      = (uchar) (codes[0] | codes[2] << 4);
        qs[lane + 32] = (uchar) (codes[1] | codes[3] << 4);
        return;
    }
    qs[lane] = (uchar) ((codes[0] & 3) | (codes[1] & 3) << 2 | (codes[2] & 3) << 4 | (codes[3] & 3) << 6);
    if (BITS == 3) {
        const ushort top  = codes[0] >> 2 | codes[1] >> 2 << 1 | codes[2] >> 2 << 2 | codes[3] >> 2 << 3;
        const ushort mine = top << 4*(lane/16);
        const ushort both = mine | simd_shuffle_xor(mine, 16);
        if (lane < 16) {
            qs[32 + lane] = (uchar) both;
        }
    }
}

// Sum of squares of a block in the order of the reference: lane l of eight takes the values l, l + 8, ..., then pairs.
static inline ulong turbo_energy(float4 y, ushort lane) {
    ulong sum = 0;
    TURBO_UNROLL
    for (short p = 0; p < 4; p++) {
        for (ushort part = 0; part < 32; part += 8) {
            sum = turbo64_add(sum, turbo64_square(simd_shuffle(y[p], (ushort) ((lane & 7) + part))));
        }
    }
    for (ushort distance = 4; distance > 0; distance /= 2) {
        const uint low  = simd_shuffle_xor((uint) sum, distance);
        const uint high = simd_shuffle_xor((uint) (sum >> 32), distance);
        sum = turbo64_add(sum, (ulong) high << 32 | low);
    }
    return sum;
}

// Which magnitude a value of size v gets from scale candidate c; `level` is that magnitude.
template<short BITS>
static inline ushort turbo_nearest(int v, short c, thread int & level) {
    ushort code = 0;
    level = turbo_steps[BITS - 2][0];
    TURBO_UNROLL
    for (short i = 0; i + 1 < 1 << (BITS - 1); i++) {
        const bool above = v > turbo_thresholds[BITS - 2][c][i];
        code  += above ? 1 : 0;
        level += above ? turbo_steps[BITS - 2][i + 1] : 0;
    }
    return code;
}

// One block of the reference's bytes. All 32 lanes take part.
template<short BITS>
static inline void turbo_quantize(float4 x, device uchar * block, ushort lane) {
    constexpr ushort n_magnitudes = 1 << (BITS - 1);

    const float4 y = turbo_rotate(x, lane);

    // bits, because fast-math knows neither infinities nor NaNs
    const uint4 exponents = as_type<uint4>(y) >> 23u & 0xffu;
    const uint  largest   = max(max(exponents[0], exponents[1]), max(exponents[2], exponents[3]));
    const bool  finite    = simd_max(largest) < 0xff;
    const ulong energy    = finite ? turbo_energy(y, lane) : 0;
    if (!finite || energy < TURBO_TOO_SMALL) {
        turbo_pack<BITS>(block, ushort4(n_magnitudes), finite ? 0 : 0x7e00, lane);
        return;
    }

    const ulong mean  = turbo64_scale(energy, -7);
    const float scale = turbo64_to_float(turbo64_divide(turbo_unit[BITS - 2], turbo64_sqrt(mean)));
    const int4  v     = int4(rint(y*scale));
    const int4  size  = abs(v);

    // Lane c keeps the sums of candidate c and then its score, dot^2 / energy; the first of the largest wins.
    int dot = 0, code_energy = 1;
    for (short c = 0; c < TURBO_SCALES; c++) {
        int d = 0, e = 0;
        TURBO_UNROLL
        for (short p = 0; p < 4; p++) {
            int level;
            turbo_nearest<BITS>(size[p], c, level);
            d += size[p]*level;
            e += level*level;
        }
        d = simd_sum(d);
        e = simd_sum(e);
        dot         = lane == c ? d : dot;
        code_energy = lane == c ? e : code_energy;
    }
    const ulong score = turbo64_divide(turbo64_of((ulong) dot*(ulong) dot), turbo64_of(code_energy));
    short best = 0;
    ulong best_score = 0;
    for (short c = 0; c < TURBO_SCALES; c++) {
        const uint low  = simd_shuffle((uint) score, (ushort) c);
        const uint high = simd_shuffle((uint) (score >> 32), (ushort) c);
        const ulong s = (ulong) high << 32 | low;
        best       = s > best_score ? c : best;
        best_score = s > best_score ? s : best_score;
    }
    code_energy = simd_shuffle(code_energy, (ushort) best);

    ushort4 codes;
    TURBO_UNROLL
    for (short p = 0; p < 4; p++) {
        int level;
        const ushort m = turbo_nearest<BITS>(size[p], best, level);
        codes[p] = v[p] < 0 ? n_magnitudes - 1 - m : n_magnitudes + m;
    }

    const ulong step2 = turbo64_divide(mean, turbo64_of(code_energy));
    const ulong gain  = turbo64_scale(turbo64_sqrt(step2), TURBO_LOG2_GAIN);
    const ulong most  = 0x40effc0000000000ul; // 65504, the largest half
    turbo_pack<BITS>(block, codes, turbo_half_bits(turbo64_to_float(gain < most ? gain : most)), lane);
}

template<short BITS>
static inline float4 turbo_dequantize(device const uchar * block, ushort lane) {
    const ushort4 codes = turbo_codes<BITS>(block, lane);
    float4 levels;
    TURBO_UNROLL
    for (short p = 0; p < 4; p++) {
        levels[p] = turbo_levels[BITS - 2][codes[p]];
    }
    // sums of integers: one rounding, in this product
    return turbo_rotate_inverse(levels, lane)*((float) *(device const half *) block*(TURBO_RSQRT_128/32));
}

// ---- rows
//
// A threadgroup has whole simdgroups; threads beyond the last whole one leave. `task` counts the blocks that a
// threadgroup is given, its simdgroups take them in turn.

template<short BITS, typename index_t>
kernel void kernel_turbo_set_rows(
        constant ggml_metal_kargs_set_rows & args,
        device const char * src0,
        device const char * src1,
        device       char * dst,
        uint3   group   [[threadgroup_position_in_grid]],
        ushort3 threads [[threads_per_threadgroup]],
        ushort  lane    [[thread_index_in_simdgroup]],
        ushort  sg      [[simdgroup_index_in_threadgroup]]) {
    const ushort n_sg = threads.x*threads.y/32;
    if (sg >= n_sg) {
        return;
    }
    const int i02 = group.y, i03 = group.z;
    const int i11 = i02%args.ne11, i12 = i03%args.ne12;
    for (int task = sg; task < args.nk0*threads.y; task += n_sg) {
        const int i01   = (int) (group.x*threads.y) + task/args.nk0;
        const int block = task%args.nk0;
        if (i01 >= args.ne01) {
            break;
        }
        const int64_t i1 = *(device const index_t *) (src1 + i01*args.nb10 + i11*args.nb11 + i12*args.nb12);

        device const char * from = src0 + i01*args.nb01 + i02*args.nb02 + i03*args.nb03;
        device       char * to   = dst + i1*args.nb1 + i02*args.nb2 + i03*args.nb3;
        const float4 x = turbo_read(from + block*TURBO_BLOCK*sizeof(float), sizeof(float), lane);
        turbo_quantize<BITS>(x, (device uchar *) to + block*TURBO_BYTES(BITS), lane);
    }
}

// Where value n of a row-major walk over the source stands in dst, whose shape may differ. `values` are those of one
// item of dst (a block, or 1), `bytes` its size is args.nb0.
static inline int64_t turbo_cpy_offset(constant ggml_metal_kargs_cpy & args, int64_t n, int values) {
    const int64_t i0 = n%args.ne0, i1 = n/args.ne0%args.ne1, i2 = n/(args.ne0*args.ne1)%args.ne2;
    const int64_t i3 = n/(args.ne0*args.ne1*args.ne2);
    return i0/values*args.nb0 + i1*args.nb1 + i2*args.nb2 + i3*args.nb3;
}

template<short BITS>
kernel void kernel_turbo_cpy_from_f32(
        constant ggml_metal_kargs_cpy & args,
        device const char * src0,
        device       char * dst,
        uint3   group   [[threadgroup_position_in_grid]],
        uint3   groups  [[threadgroups_per_grid]],
        ushort3 threads [[threads_per_threadgroup]],
        ushort  lane    [[thread_index_in_simdgroup]],
        ushort  sg      [[simdgroup_index_in_threadgroup]]) {
    const ushort n_sg = threads.x*threads.y/32;
    if (sg >= n_sg) {
        return;
    }
    const int64_t i01 = group.x%args.ne01, i02 = group.y, i03 = group.z;
    const int     n_blocks = args.ne00/TURBO_BLOCK;
    for (int block = group.x/args.ne01*n_sg + sg; block < n_blocks; block += groups.x/args.ne01*n_sg) {
        device const char * from = src0 + block*TURBO_BLOCK*args.nb00 + i01*args.nb01 + i02*args.nb02 + i03*args.nb03;
        const int64_t n = ((i03*args.ne02 + i02)*args.ne01 + i01)*args.ne00 + block*TURBO_BLOCK;
        turbo_quantize<BITS>(turbo_read(from, args.nb00, lane),
                             (device uchar *) dst + turbo_cpy_offset(args, n, TURBO_BLOCK), lane);
    }
}

template<short BITS, typename T>
kernel void kernel_turbo_cpy_to(
        constant ggml_metal_kargs_cpy & args,
        device const char * src0,
        device       char * dst,
        uint3   group   [[threadgroup_position_in_grid]],
        uint3   groups  [[threadgroups_per_grid]],
        ushort3 threads [[threads_per_threadgroup]],
        ushort  lane    [[thread_index_in_simdgroup]],
        ushort  sg      [[simdgroup_index_in_threadgroup]]) {
    const ushort n_sg = threads.x*threads.y/32;
    if (sg >= n_sg) {
        return;
    }
    const int64_t i01 = group.x%args.ne01, i02 = group.y, i03 = group.z;
    const int     n_blocks = args.ne00/TURBO_BLOCK;
    for (int block = group.x/args.ne01*n_sg + sg; block < n_blocks; block += groups.x/args.ne01*n_sg) {
        device const char * from = src0 + block*args.nb00 + i01*args.nb01 + i02*args.nb02 + i03*args.nb03;
        const float4  x = turbo_dequantize<BITS>((device const uchar *) from, lane);
        const int64_t n = ((i03*args.ne02 + i02)*args.ne01 + i01)*args.ne00 + block*TURBO_BLOCK;
        TURBO_UNROLL
        for (short p = 0; p < 4; p++) {
            *(device T *) (dst + turbo_cpy_offset(args, n + lane + 32*p, 1)) = (T) x[p];
        }
    }
}

template<short BITS>
kernel void kernel_turbo_get_rows(
        constant ggml_metal_kargs_get_rows & args,
        device const char * src0,
        device const char * src1,
        device       char * dst,
        uint3   group   [[threadgroup_position_in_grid]],
        uint3   groups  [[threadgroups_per_grid]],
        ushort3 threads [[threads_per_threadgroup]],
        ushort  lane    [[thread_index_in_simdgroup]],
        ushort  sg      [[simdgroup_index_in_threadgroup]]) {
    const ushort n_sg = threads.x*threads.y/32;
    if (sg >= n_sg) {
        return;
    }
    const int i10 = group.x%args.ne10, i11 = group.y, i12 = group.z;
    const int64_t row = *(device const int *) (src1 + i10*args.nb10 + i11*args.nb11 + i12*args.nb12);

    device const char  * from = src0 + row*args.nb01 + i11*args.nb02 + i12*args.nb03;
    device       float * to   = (device float *) (dst + i10*args.nb1 + i11*args.nb2 + i12*args.nb3);
    const int n_blocks = args.ne00/TURBO_BLOCK;
    for (int block = group.x/args.ne10*n_sg + sg; block < n_blocks; block += groups.x/args.ne10*n_sg) {
        const float4 x = turbo_dequantize<BITS>((device const uchar *) from + block*TURBO_BYTES(BITS), lane);
        TURBO_UNROLL
        for (short p = 0; p < 4; p++) {
            to[block*TURBO_BLOCK + lane + 32*p] = x[p];
        }
    }
}

// K or V as contiguous f16, for the f16 attention kernels. A threadgroup takes as many blocks as it has threads.
template<short BITS>
kernel void kernel_turbo_kv_f16(
        constant ggml_metal_kargs_flash_attn_ext_kv_f16 & args,
        device const char * src,
        device       half * dst,
        uint3   group   [[threadgroup_position_in_grid]],
        ushort3 threads [[threads_per_threadgroup]],
        ushort  lane    [[thread_index_in_simdgroup]],
        ushort  sg      [[simdgroup_index_in_threadgroup]]) {
    const ushort n_sg = threads.x/32;
    const int n_blocks = args.ne0/TURBO_BLOCK;
    for (ushort task = sg; task < threads.x && sg < n_sg; task += n_sg) {
        const int number = (int) (group.x*threads.x) + task;
        if (number >= args.nblocks) {
            break;
        }
        const int i1 = number/n_blocks%args.ne1, i23 = number/n_blocks/args.ne1;
        device const char * from = src + number%n_blocks*args.nb0 + i1*args.nb1 + i23%args.ne2*args.nb2 + i23/args.ne2*args.nb3;
        const float4 x = turbo_dequantize<BITS>((device const uchar *) from, lane);
        TURBO_UNROLL
        for (short p = 0; p < 4; p++) {
            dst[(int64_t) number*TURBO_BLOCK + lane + 32*p] = (half) x[p];
        }
    }
}

typedef decltype(kernel_turbo_set_rows<4, int32_t>) turbo_set_rows_i32_t;
typedef decltype(kernel_turbo_set_rows<4, int64_t>) turbo_set_rows_i64_t;
typedef decltype(kernel_turbo_cpy_from_f32<4>)      turbo_cpy_from_t;
typedef decltype(kernel_turbo_cpy_to<4, float>)     turbo_cpy_to_t;
typedef decltype(kernel_turbo_get_rows<4>)          turbo_get_rows_t;
typedef decltype(kernel_turbo_kv_f16<4>)            turbo_kv_f16_t;

#define TURBO_ROWS(BITS) \
template [[host_name(TURBO_NAME(kernel_set_rows_f32_i32_turbo##BITS))]] kernel turbo_set_rows_i32_t kernel_turbo_set_rows<BITS, int32_t>; \
template [[host_name(TURBO_NAME(kernel_set_rows_f32_i64_turbo##BITS))]] kernel turbo_set_rows_i64_t kernel_turbo_set_rows<BITS, int64_t>; \
template [[host_name(TURBO_NAME(kernel_cpy_f32_turbo##BITS))]] kernel turbo_cpy_from_t kernel_turbo_cpy_from_f32<BITS>; \
template [[host_name(TURBO_NAME(kernel_cpy_turbo##BITS##_f32))]] kernel turbo_cpy_to_t kernel_turbo_cpy_to<BITS, float>; \
template [[host_name(TURBO_NAME(kernel_cpy_turbo##BITS##_f16))]] kernel turbo_cpy_to_t kernel_turbo_cpy_to<BITS, half>; \
template [[host_name(TURBO_NAME(kernel_get_rows_turbo##BITS))]] kernel turbo_get_rows_t kernel_turbo_get_rows<BITS>; \
template [[host_name(TURBO_NAME(kernel_flash_attn_ext_kv_turbo##BITS##_f16))]] kernel turbo_kv_f16_t kernel_turbo_kv_f16<BITS>;

TURBO_ROWS(2)
TURBO_ROWS(3)
TURBO_ROWS(4)

// ---- attention

#include "ggml-metal-turbo-attention.h"
#include "ggml-metal-turbo-vec.h"
#include "ggml-metal-turbo-tiled.h"

typedef turbo_cache<2>   turbo_cache_turbo2;
typedef turbo_cache<3>   turbo_cache_turbo3;
typedef turbo_cache<4>   turbo_cache_turbo4;

typedef decltype(kernel_turbo_fa_vec<turbo_cache_turbo4, turbo_cache_turbo4, 128, 128>) turbo_fa_vec_t;
typedef decltype(kernel_turbo_fa<turbo_cache_turbo4, turbo_cache_turbo4, 128, 128>)     turbo_fa_t;

#define TURBO_FA_VEC(K, V, DK, DV) \
template [[host_name(TURBO_NAME(kernel_flash_attn_ext_vec_k##K##_v##V##_dk##DK##_dv##DV))]] kernel turbo_fa_vec_t kernel_turbo_fa_vec<turbo_cache_##K, turbo_cache_##V, DK, DV>;
#define TURBO_FA(K, V, DK, DV) \
template [[host_name(TURBO_NAME(kernel_flash_attn_ext_k##K##_v##V##_dk##DK##_dv##DV))]] kernel turbo_fa_t kernel_turbo_fa<turbo_cache_##K, turbo_cache_##V, DK, DV>;

// Heads as in ggml-metal-turbo.h.
#define TURBO_FA_PAIR(K, V) \
    TURBO_FA_VEC(K, V, 128, 128) TURBO_FA_VEC(K, V, 256, 256) TURBO_FA_VEC(K, V, 512, 512) \
    TURBO_FA_VEC(K, V, 256, 128) TURBO_FA_VEC(K, V, 512, 128) TURBO_FA_VEC(K, V, 512, 256) \
    TURBO_FA_VEC(K, V, 128, 256) TURBO_FA_VEC(K, V, 128, 512) TURBO_FA_VEC(K, V, 256, 512) \
    TURBO_FA(K, V, 128, 128) TURBO_FA(K, V, 256, 256) TURBO_FA(K, V, 512, 512) \
    TURBO_FA(K, V, 256, 128) TURBO_FA(K, V, 128, 256)
#define TURBO_FA_WITH(T) \
    TURBO_FA_PAIR(T, turbo2) TURBO_FA_PAIR(T, turbo3) TURBO_FA_PAIR(T, turbo4) \
    TURBO_FA_PAIR(T, f16) TURBO_FA_PAIR(T, q8_0) TURBO_FA_PAIR(f16, T) TURBO_FA_PAIR(q8_0, T)

TURBO_FA_WITH(turbo2)
TURBO_FA_WITH(turbo3)
TURBO_FA_WITH(turbo4)
