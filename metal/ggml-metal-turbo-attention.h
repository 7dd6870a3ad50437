#pragma once

// Attention over K and V of the turbo types, and of f16 or q8_0 beside one of them. Included by ggml-metal-turbo.metal.
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

static inline float turbo_slope(int head, float m0, float m1, int n_head_log2) {
    if (!turbo_has_bias) {
        return 1.0f;
    }
    const bool first = head < n_head_log2;
    return pow(first ? m0 : m1, (float) (first ? head + 1 : 2*(head - n_head_log2) + 1));
}

// ---- one query row: the cache is shared by nwg workgroups and their simdgroups, 32 positions a step
//
// D/16 lanes hold a row, so 512/D rows are read at once and a lane's work for a row does not depend on D. Lane l owns
// position l%n*(32/n) + l/n of a step for the softmax, n = DK/16. Each simdgroup keeps its own maximum and sum.

template<typename K, typename V, short DK, short DV>
kernel void kernel_turbo_fa_vec(
        constant ggml_metal_kargs_flash_attn_ext_vec & args,
        device const char * q,
        device const char * k,
        device const char * v,
        device const char * mask,
        device const char * sinks,
        device const char * pad,
        device      float * dst,
        threadgroup float * shared [[threadgroup(0)]],
        uint3  group [[threadgroup_position_in_grid]],
        ushort lane  [[thread_index_in_simdgroup]],
        ushort sg    [[simdgroup_index_in_threadgroup]],
        ushort n_sg  [[simdgroups_per_threadgroup]]) {
    constexpr short NK = DK/16, PK = 32/NK; // lanes of a key, keys at once
    constexpr short NV = DV/16, PV = 32/NV;
    static_assert(DK % 128 == 0 && DV % 128 == 0 && DK <= 512 && DV <= 512, "");

    const int nwg = turbo_nwg;
    const int iwg = group.z%nwg;
    const int iq1 = group.x, iq2 = group.y, iq3 = group.z/nwg;

    threadgroup float * levels = shared;
    threadgroup float * values = shared + 32; // the query, later the sums of the simdgroups
    threadgroup float * stats  = values + TURBO_MAX(DK, n_sg*DV);

    q += iq1*args.nb01 + iq2*args.nb02 + iq3*args.nb03;
    {
        const int ikv2 = iq2/(args.ne02/args.ne_12_2), ikv3 = iq3/(args.ne03/args.ne_12_3);
        k += ikv2*args.nb12 + ikv3*args.nb13;
        v += ikv2*args.nb22 + ikv3*args.nb23;
    }
    device const half * row_mask = (device const half *) (mask + iq1*args.nb31 + iq2%args.ne32*args.nb32 + iq3%args.ne33*args.nb33);

    turbo_load_levels<K, V>(levels, lane, sg);
    for (short b = sg; b < DK/TURBO_BLOCK; b += n_sg) {
        turbo_load_query<K>(q, b, args.scale, values, lane);
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);

    const short xk = lane%NK, yk = lane/NK, xv = lane%NV, yv = lane/NV;
    k += xk/TURBO_LANES*K::BYTES;
    v += xv/TURBO_LANES*V::BYTES;

    float query[16], sum[16];
    TURBO_UNROLL
    for (short n = 0; n < 16; n++) {
        query[n] = values[xk/TURBO_LANES*TURBO_BLOCK + K::index(xk%TURBO_LANES, n)];
        sum[n]   = 0;
    }
    // all queries are read before the sums of a simdgroup take their place
    threadgroup_barrier(mem_flags::mem_threadgroup);

    const float slope = turbo_slope(iq2, args.m0, args.m1, args.n_head_log2);
    float M = TURBO_LOWEST, S = 0;

    for (int first = (iwg*n_sg + sg)*32; first < args.ne11; first += nwg*n_sg*32) {
        const int mine = first + xk*PK + yk;
        bool  visible = mine < args.ne11;
        float bias    = 0;
        if (turbo_has_mask) {
            bias    = visible ? (float) row_mask[mine] : 0;
            visible = visible && bias > -65504.0f;
        }
        if (!simd_any(visible)) {
            continue;
        }

        // offsets within a step fit into 32 bits
        device const char * rows_k = k + first*args.nb11;
        device const char * rows_v = v + first*args.nb21;
        const int last = min(31, args.ne11 - 1 - first);
        const int size_k = (int) args.nb11, size_v = (int) args.nb21;

        // Scores: eight positions at a time, each lane's part of them, then added up across lanes so that lane x of
        // eight ends up with the x-th.
        float score = 0;
        for (short outer = 0; outer < NK/8; outer++) {
            float part[8];
            TURBO_UNROLL
            for (short inner = 0; inner < 8; inner++) {
                device const char * row = rows_k + min((8*outer + inner)*PK + yk, last)*size_k;
                float key[16];
                K::load(row, xk%TURBO_LANES, levels, key);
                float dot = 0;
                TURBO_UNROLL
                for (short n = 0; n < 16; n++) {
                    dot += query[n]*key[n];
                }
                part[inner] = dot*K::factor(row, xk%TURBO_LANES);
            }
            TURBO_UNROLL
            for (short distance = 4; distance > 0; distance /= 2) {
                const bool upper = (lane & distance) != 0;
                TURBO_UNROLL
                for (short i = 0; i < distance; i++) {
                    const float give = upper ? part[i] : part[i + distance];
                    part[i] = (upper ? part[i + distance] : part[i]) + simd_shuffle_xor(give, (ushort) distance);
                }
            }
            TURBO_UNROLL
            for (short distance = 8; distance < NK; distance *= 2) {
                part[0] += simd_shuffle_xor(part[0], (ushort) distance);
            }
            score = xk/8 == outer ? part[0] : score;
        }
        if (turbo_has_scap) {
            score = args.logit_softcap*precise::tanh(score);
        }
        score = visible ? score + slope*bias : TURBO_LOWEST;

        const float before = M;
        M = max(M, simd_max(score));
        const float shrink = exp(before - M);
        const float p      = visible ? exp(score - M) : 0;
        S = S*shrink + simd_sum(p);
        TURBO_UNROLL
        for (short n = 0; n < 16; n++) {
            sum[n] *= shrink;
        }

        for (short i = 0; i < NV; i++) {
            const short c = i*PV + yv;
            device const char * row = rows_v + min((int) c, last)*size_v;
            const float weight = simd_shuffle(p, (ushort) (c%PK*NK + c/PK));
            // what the mask hides may be anything, NaN too
            const float w = weight > 0 ? weight*V::factor(row, xv%TURBO_LANES) : 0;
            float value[16];
            V::load(row, xv%TURBO_LANES, levels + 16, value);
            TURBO_UNROLL
            for (short n = 0; n < 16; n++) {
                sum[n] += w*value[n];
            }
        }
    }

    if (turbo_has_sinks && iwg == 0 && sg == 0) {
        const float sink   = ((device const float *) sinks)[iq2];
        const float before = M;
        M = max(M, sink);
        const float shrink = exp(before - M);
        S = S*shrink + exp(sink - M);
        TURBO_UNROLL
        for (short n = 0; n < 16; n++) {
            sum[n] *= shrink;
        }
    }

    // Sums of the lanes that read other rows: each step gives half of the values away, so that a lane ends up with
    // NV/2 of its 16, beginning with `from`.
    short from = 0, count = 16;
    TURBO_UNROLL
    for (short distance = 16; distance >= NV; distance /= 2) {
        const bool upper = (lane & distance) != 0;
        count /= 2;
        from  += upper ? count : 0;
        TURBO_UNROLL
        for (short n = 0; n < count; n++) {
            const float give = upper ? sum[n] : sum[n + count];
            sum[n] = (upper ? sum[n + count] : sum[n]) + simd_shuffle_xor(give, (ushort) distance);
        }
    }
    TURBO_UNROLL
    for (short n = 0; n < NV/2; n++) {
        values[sg*DV + xv/TURBO_LANES*TURBO_BLOCK + V::index(xv%TURBO_LANES, from + n)] = sum[n];
    }
    if (lane == 0) {
        stats[2*sg + 0] = S;
        stats[2*sg + 1] = M;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);

    // The sum over simdgroups, and later over workgroups, weighs whole rows: it commutes with the rotation.
    float largest = stats[1], total = 0;
    for (ushort g = 1; g < n_sg; g++) {
        largest = max(largest, stats[2*g + 1]);
    }
    for (ushort g = 0; g < n_sg; g++) {
        total += stats[2*g]*exp(stats[2*g + 1] - largest);
    }
    const float factor = nwg > 1 ? 1.0f : total == 0 ? 0.0f : 1.0f/total;

    const int64_t row = ((int64_t) iq3*args.ne2 + iq1)*args.ne1 + iq2;
    for (short b = sg; b < DV/TURBO_BLOCK; b += n_sg) {
        float4 o = 0.0f;
        for (ushort g = 0; g < n_sg; g++) {
            const float weight = exp(stats[2*g + 1] - largest);
            TURBO_UNROLL
            for (short p = 0; p < 4; p++) {
                o[p] += weight*values[g*DV + b*TURBO_BLOCK + lane + 32*p];
            }
        }
        o = turbo_output<V>(o, factor, lane);
        TURBO_UNROLL
        for (short p = 0; p < 4; p++) {
            const int i = b*TURBO_BLOCK + lane + 32*p;
            dst[((row*(DV/4) + i/4)*nwg + iwg)*4 + i%4] = o[p];
        }
    }
    if (nwg > 1 && sg == 0 && lane == 0) {
        device float * rest = dst + (int64_t) args.ne1*args.ne2*args.ne3*DV*nwg + (row*nwg + iwg)*2;
        rest[0] = total;
        rest[1] = largest;
    }
}

// ---- eight query rows: four simdgroups, 32 positions a step
//
// Scores: a simdgroup takes eight positions, all rows. Softmax: a simdgroup takes the rows sg and sg + 4, a lane a
// position. Output: a simdgroup takes 32 columns of each block of 128, which stay in its registers.

template<typename K, typename V, short DK, short DV>
kernel void kernel_turbo_fa(
        constant ggml_metal_kargs_flash_attn_ext & args,
        device const char * q,
        device const char * k,
        device const char * v,
        device const char * mask,
        device const char * sinks,
        device const char * pad,
        device const char * blk,
        device      float * dst,
        threadgroup float * shared [[threadgroup(0)]],
        uint3  group [[threadgroup_position_in_grid]],
        ushort lane  [[thread_index_in_simdgroup]],
        ushort sg    [[simdgroup_index_in_threadgroup]]) {
    constexpr short Q = TURBO_FA_ROWS, C = TURBO_FA_POSITIONS, NSG = TURBO_FA_SIMDGROUPS;
    constexpr short BK = DK/TURBO_BLOCK, BV = DV/TURBO_BLOCK, NQ = Q/NSG;
    static_assert(DK % 128 == 0 && DV % 128 == 0 && C == 32 && 8*NSG == C, "");

    const int iq1 = group.x*Q, iq2 = group.y, iq3 = group.z;

    threadgroup float * levels = shared;
    threadgroup float * shrink = levels + 32;             // [8, 8] diagonal: factors of the rows of O
    threadgroup float * rows   = shrink + 64;             // [8, DK] the queries, later [8, DV] the output
    threadgroup float * ss     = rows + Q*TURBO_MAX(DK, DV); // [block, 8, 32] scores, later weights of V
    threadgroup half  * tile   = (threadgroup half *) (ss + TURBO_MAX(BK, BV)*Q*C); // [32, 128] of K or V

    q += iq1*args.nb01 + iq2*args.nb02 + iq3*args.nb03;
    {
        const int ikv2 = iq2/(args.ne02/args.ne_12_2), ikv3 = iq3/(args.ne03/args.ne_12_3);
        k += ikv2*args.nb12 + ikv3*args.nb13;
        v += ikv2*args.nb22 + ikv3*args.nb23;
        const int blocks1 = (args.ne01 + Q - 1)/Q;
        const int blocks0 = (args.ne11 + OP_FLASH_ATTN_EXT_NCPSG - 1)/OP_FLASH_ATTN_EXT_NCPSG;
        blk += ((iq3%args.ne33*args.ne32 + iq2%args.ne32)*blocks1 + iq1/Q)*blocks0;
    }

    turbo_load_levels<K, V>(levels, lane, sg);
    for (short task = sg; task < Q*BK; task += NSG) {
        const short j = task/BK, b = task%BK;
        if (iq1 + j < args.ne01) {
            turbo_load_query<K>(q + j*args.nb01, b, args.scale, rows + j*DK, lane);
        } else {
            TURBO_UNROLL
            for (short p = 0; p < 4; p++) {
                rows[j*DK + b*TURBO_BLOCK + lane + 32*p] = 0;
            }
        }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);

    const float slope = turbo_slope(iq2, args.m0, args.m1, args.n_head_log2);
    float M[NQ], S[NQ];
    TURBO_UNROLL
    for (short jj = 0; jj < NQ; jj++) {
        M[jj] = TURBO_LOWEST;
        S[jj] = 0;
    }
    simdgroup_float8x8 out[BV*4];
    TURBO_UNROLL
    for (short i = 0; i < BV*4; i++) {
        out[i] = make_filled_simdgroup_matrix<float, 8>(0.0f);
    }

    for (int first = 0; first < args.ne11; first += C) {
        char state = 1; // of the mask: 0 hides all, 2 is all zeros
        if (turbo_has_mask) {
            state = blk[first/OP_FLASH_ATTN_EXT_NCPSG];
            if (state == 0) {
                continue;
            }
        }

        // scores of the positions 8 sg .. 8 sg + 7
        threadgroup half * own = tile + 8*sg*TURBO_BLOCK;
        for (short b = 0; b < BK; b++) {
            TURBO_UNROLL
            for (short task = lane; task < 64; task += 32) {
                const short c = task/TURBO_LANES, x = task%TURBO_LANES;
                const int   at = min(first + 8*sg + c, args.ne11 - 1);
                device const char * row = k + at*args.nb11 + b*K::BYTES;
                // codebooks are exact in half; their factor follows the sum
                const float factor = K::ROTATED ? 1.0f : K::factor(row, x);
                float key[16];
                K::load(row, x, levels, key);
                TURBO_UNROLL
                for (short n = 0; n < 16; n++) {
                    own[c*TURBO_BLOCK + K::index(x, n)] = (half) (key[n]*factor);
                }
            }
            simdgroup_barrier(mem_flags::mem_threadgroup);
            simdgroup_float8x8 scores = make_filled_simdgroup_matrix<float, 8>(0.0f);
            for (short i = 0; i < TURBO_BLOCK/8; i++) {
                simdgroup_float8x8 mq;
                simdgroup_half8x8  mk;
                simdgroup_load(mq, rows + b*TURBO_BLOCK + 8*i, DK);
                simdgroup_load(mk, own + 8*i, TURBO_BLOCK, 0, true);
                simdgroup_multiply_accumulate(scores, mq, mk, scores);
            }
            simdgroup_store(scores, ss + b*Q*C + 8*sg, C);
            // before the next block of keys, or the values, take the place of this one
            simdgroup_barrier(mem_flags::mem_threadgroup);
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);

        // softmax, and the weights of V's levels
        const int at = min(first + lane, args.ne11 - 1);
        float factor_k[BK], factor_v[BV];
        TURBO_UNROLL
        for (short b = 0; b < BK; b++) {
            factor_k[b] = K::ROTATED ? K::factor(k + at*args.nb11 + b*K::BYTES, 0) : 1.0f;
        }
        TURBO_UNROLL
        for (short b = 0; b < BV; b++) {
            factor_v[b] = V::ROTATED ? V::factor(v + at*args.nb21 + b*V::BYTES, 0) : 1.0f;
        }
        TURBO_UNROLL
        for (short jj = 0; jj < NQ; jj++) {
            const short j = jj*NSG + sg;
            float score = 0;
            TURBO_UNROLL
            for (short b = 0; b < BK; b++) {
                score += factor_k[b]*ss[(b*Q + j)*C + lane];
            }
            if (turbo_has_scap) {
                score = args.logit_softcap*precise::tanh(score);
            }
            bool visible = first + lane < args.ne11 && iq1 + j < args.ne01;
            if (turbo_has_mask && state != 2) {
                device const half * row = (device const half *) (mask + (iq1 + j)*args.nb31 + iq2%args.ne32*args.nb32 + iq3%args.ne33*args.nb33);
                const float bias = visible ? (float) row[first + lane] : 0;
                visible = visible && bias > -65504.0f;
                score  += slope*bias;
            }
            score = visible ? score : TURBO_LOWEST;

            const float before = M[jj];
            M[jj] = max(before, simd_max(score));
            const float factor = exp(before - M[jj]);
            const float p      = visible ? exp(score - M[jj]) : 0;
            S[jj] = S[jj]*factor + simd_sum(p);
            TURBO_UNROLL
            for (short b = 0; b < BV; b++) {
                // what the mask hides may be anything, NaN too
                ss[(b*Q + j)*C + lane] = p > 0 ? p*factor_v[b] : 0;
            }
            if (lane < 8) {
                shrink[8*j + lane] = lane == j ? factor : 0;
            }
        }

        for (short b = 0; b < BV; b++) {
            for (short task = 32*sg + lane; task < C*TURBO_LANES; task += 32*NSG) {
                const short c = task/TURBO_LANES, x = task%TURBO_LANES;
                const int   from = min(first + c, args.ne11 - 1);
                device const char * row = v + from*args.nb21 + b*V::BYTES;
                const float factor = V::ROTATED ? 1.0f : V::factor(row, x);
                float value[16];
                V::load(row, x, levels + 16, value);
                TURBO_UNROLL
                for (short n = 0; n < 16; n++) {
                    tile[c*TURBO_BLOCK + V::index(x, n)] = (half) (value[n]*factor);
                }
            }
            threadgroup_barrier(mem_flags::mem_threadgroup);

            simdgroup_float8x8 diagonal;
            simdgroup_load(diagonal, shrink, 8);
            TURBO_UNROLL
            for (short t = 0; t < 4; t++) {
                simdgroup_multiply(out[4*b + t], diagonal, out[4*b + t]);
                TURBO_UNROLL
                for (short c = 0; c < C/8; c++) {
                    simdgroup_float8x8 weights;
                    simdgroup_half8x8  values;
                    simdgroup_load(weights, ss + b*Q*C + 8*c, C);
                    simdgroup_load(values, tile + 8*c*TURBO_BLOCK + 32*sg + 8*t, TURBO_BLOCK);
                    simdgroup_multiply_accumulate(out[4*b + t], weights, values, out[4*b + t]);
                }
            }
            // the tile and the weights are read before others take their place
            threadgroup_barrier(mem_flags::mem_threadgroup);
        }
    }

    // every query is read: the last barrier, of the loop or before it, is behind all threads
    TURBO_UNROLL
    for (short i = 0; i < BV*4; i++) {
        simdgroup_store(out[i], rows + i/4*TURBO_BLOCK + 32*sg + 8*(i%4), DV);
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);

    TURBO_UNROLL
    for (short jj = 0; jj < NQ; jj++) {
        const short j = jj*NSG + sg;
        float total = S[jj], factor = 1.0f;
        if (turbo_has_sinks) {
            const float sink    = ((device const float *) sinks)[iq2];
            const float largest = max(M[jj], sink);
            factor = exp(M[jj] - largest);
            total  = total*factor + exp(sink - largest);
        }
        factor = total == 0 ? 0.0f : factor/total;
        if (iq1 + j >= args.ne01) {
            continue;
        }
        device float * to = dst + (((int64_t) iq3*args.ne2 + iq1 + j)*args.ne1 + iq2)*DV;
        for (short b = 0; b < BV; b++) {
            float4 o;
            TURBO_UNROLL
            for (short p = 0; p < 4; p++) {
                o[p] = rows[j*DV + b*TURBO_BLOCK + lane + 32*p];
            }
            o = turbo_output<V>(o, factor, lane);
            TURBO_UNROLL
            for (short p = 0; p < 4; p++) {
                to[b*TURBO_BLOCK + lane + 32*p] = o[p];
            }
        }
    }
}

typedef turbo_cache<2>   turbo_cache_turbo2;
typedef turbo_cache<3>   turbo_cache_turbo3;
typedef turbo_cache<4>   turbo_cache_turbo4;

typedef decltype(kernel_turbo_fa_vec<turbo_cache_turbo4, turbo_cache_turbo4, 128, 128>) turbo_fa_vec_t;
typedef decltype(kernel_turbo_fa<turbo_cache_turbo4, turbo_cache_turbo4, 128, 128>)     turbo_fa_t;

#define TURBO_FA_VEC(K, V, D) \
template [[host_name(TURBO_NAME(kernel_flash_attn_ext_vec_k##K##_v##V##_dk##D##_dv##D))]] kernel turbo_fa_vec_t kernel_turbo_fa_vec<turbo_cache_##K, turbo_cache_##V, D, D>;
#define TURBO_FA(K, V, D) \
template [[host_name(TURBO_NAME(kernel_flash_attn_ext_k##K##_v##V##_dk##D##_dv##D))]] kernel turbo_fa_t kernel_turbo_fa<turbo_cache_##K, turbo_cache_##V, D, D>;

#define TURBO_FA_PAIR(K, V) \
    TURBO_FA_VEC(K, V, 128) TURBO_FA_VEC(K, V, 256) TURBO_FA_VEC(K, V, 512) TURBO_FA(K, V, 128) TURBO_FA(K, V, 256) TURBO_FA(K, V, 512)
#define TURBO_FA_WITH(T) \
    TURBO_FA_PAIR(T, turbo2) TURBO_FA_PAIR(T, turbo3) TURBO_FA_PAIR(T, turbo4) \
    TURBO_FA_PAIR(T, f16) TURBO_FA_PAIR(T, q8_0) TURBO_FA_PAIR(f16, T) TURBO_FA_PAIR(q8_0, T)

TURBO_FA_WITH(turbo2)
TURBO_FA_WITH(turbo3)
TURBO_FA_WITH(turbo4)
