#pragma once

// What both forms of attention have in common: what a cache holds, the query, the output. For K and V of the turbo
// types, and f16 or q8_0 beside one of them. Included by ggml-metal-turbo.metal.
//
// Keys stay rotated: the query is rotated once instead, and q.k = (H S q).(H S k)/128. Values are summed rotated and
// the sum is rotated back once. Both kernels equal softmax(scale q k^T + mask) v over the dequantized rows.

#define TURBO_LANES 8 // lanes that share 128 values of a row; each takes 16

constant bool turbo_has_mask  [[function_constant(FC_TURBO_HAS_MASK)]];
constant bool turbo_has_sinks [[function_constant(FC_TURBO_HAS_SINKS)]];
constant bool turbo_has_bias  [[function_constant(FC_TURBO_HAS_BIAS)]];
constant bool turbo_has_scap  [[function_constant(FC_TURBO_HAS_SCAP)]];
constant int  turbo_nwg       [[function_constant(FC_TURBO_NWG)]];

// ---- what a cache holds: 128 values of a row, 16 for each of eight lanes
//
// index(x, n) is the place among the 128 of the value that lane x calls n; load gives the 16 values without their
// factor, which is factor(x). Lanes that follow each other read bytes that follow each other.

template<short BITS>
struct turbo_cache {
    enum { ROTATED = 1, BYTES = TURBO_BYTES(BITS) };

    static short index(short x, short n) {
        if (BITS == 4) {
            return 2*(x + 8*(n/4)) + n/2%2 + 64*(n%2);
        }
        return 2*(x + 8*(n/8)) + n/4%2 + 32*(n%4);
    }

    static float factor(device const char * row, short) { return *(device const half *) row; }

    static void load(device const char * row, short x, threadgroup const float * levels, thread float * v) {
        device const ushort * qs = (device const ushort *) row + 1;
        if (BITS == 4) {
            TURBO_UNROLL
            for (short i = 0; i < 4; i++) {
                const ushort u = qs[x + 8*i];
                v[4*i + 0] = levels[u & 15];
                v[4*i + 1] = levels[u >> 4 & 15];
                v[4*i + 2] = levels[u >> 8 & 15];
                v[4*i + 3] = levels[u >> 12];
            }
            return;
        }
        const ushort top = BITS == 3 ? qs[16 + x] : 0;
        TURBO_UNROLL
        for (short i = 0; i < 2; i++) {
            const ushort u = qs[x + 8*i];
            TURBO_UNROLL
            for (short n = 0; n < 8; n++) {
                const ushort low  = u >> 2*n & 3;
                const ushort high = BITS == 3 ? (top >> (8*(n/4) + n%4 + 4*i) & 1) << 2 : 0;
                v[8*i + n] = levels[low | high];
            }
        }
    }
};

struct turbo_cache_f16 {
    enum { ROTATED = 0, BYTES = 256 };

    static short index(short x, short n) { return 4*(x + 8*(n/4)) + n%4; }
    static float factor(device const char *, short) { return 1.0f; }

    static void load(device const char * row, short x, threadgroup const float *, thread float * v) {
        TURBO_UNROLL
        for (short i = 0; i < 4; i++) {
            const half4 u = ((device const half4 *) row)[x + 8*i];
            TURBO_UNROLL
            for (short n = 0; n < 4; n++) {
                v[4*i + n] = u[n];
            }
        }
    }
};

// Four blocks of 32 with a factor each.
struct turbo_cache_q8_0 {
    enum { ROTATED = 0, BYTES = 4*34 };

    static short index(short x, short n) { return 16*x + n; }
    static float factor(device const char * row, short x) { return *(device const half *) (row + x/2*34); }

    static void load(device const char * row, short x, threadgroup const float *, thread float * v) {
        device const char2 * qs = (device const char2 *) (row + x/2*34 + 2 + x%2*16);
        TURBO_UNROLL
        for (short i = 0; i < 8; i++) {
            const char2 u = qs[i];
            v[2*i + 0] = u[0];
            v[2*i + 1] = u[1];
        }
    }
};

template<typename T> struct turbo_levels_of;
template<> struct turbo_levels_of<turbo_cache_f16>  { enum { TABLE = 0 }; };
template<> struct turbo_levels_of<turbo_cache_q8_0> { enum { TABLE = 0 }; };
template<short BITS> struct turbo_levels_of<turbo_cache<BITS>> { enum { TABLE = BITS - 2 }; };

// Levels of K and then of V, 16 each, by the first simdgroup.
template<typename K, typename V>
static inline void turbo_load_levels(threadgroup float * levels, ushort lane, ushort sg) {
    if (sg == 0) {
        levels[lane] = turbo_levels[lane < 16 ? (int) turbo_levels_of<K>::TABLE : (int) turbo_levels_of<V>::TABLE][lane%16];
    }
}

// Query block b of a row, rotated where keys are, times `scale`.
template<typename K>
static inline void turbo_load_query(device const char * row, short b, float scale, threadgroup float * to, ushort lane) {
    float4 x = turbo_read(row + b*TURBO_BLOCK*sizeof(float), sizeof(float), lane);
    if (K::ROTATED) {
        x = turbo_rotate(x, lane);
        scale *= TURBO_RSQRT_128/32;
    }
    TURBO_UNROLL
    for (short p = 0; p < 4; p++) {
        to[b*TURBO_BLOCK + lane + 32*p] = x[p]*scale;
    }
}

// The block of an output that four parts of a lane make, rotated back where values are.
template<typename V>
static inline float4 turbo_output(float4 o, float factor, ushort lane) {
    if (V::ROTATED) {
        o = turbo_rotate_inverse(o, lane);
        factor *= TURBO_RSQRT_128/32;
    }
    return o*factor;
}

// Whether the mask hides a cell: -inf, or the lowest half. By its bits, because fast-math knows no infinities.
static inline bool turbo_hides(half m) { return as_type<ushort>(m) >= 0xfbff; }

static inline float turbo_slope(int head, float m0, float m1, int n_head_log2) {
    if (!turbo_has_bias) {
        return 1.0f;
    }
    const bool first = head < n_head_log2;
    return pow(first ? m0 : m1, (float) (first ? head + 1 : 2*(head - n_head_log2) + 1));
}
