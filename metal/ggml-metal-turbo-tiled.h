#pragma once

// Attention of eight query rows: four simdgroups, 32 positions a step
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
                const half m = visible ? row[first + lane] : (half) 0;
                visible = visible && !turbo_hides(m);
                score  += visible ? slope*(float) m : 0;
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

        // unrolled, so that the output stays in registers
        TURBO_UNROLL
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
