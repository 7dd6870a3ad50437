#pragma once

// Attention of one query row: the cache is shared by nwg workgroups and their simdgroups, 32 positions a step
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
            const half m = visible ? row_mask[mine] : (half) 0;
            visible = visible && !turbo_hides(m);
            bias    = visible ? (float) m : 0;
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
