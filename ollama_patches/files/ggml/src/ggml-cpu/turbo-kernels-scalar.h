#pragma once

// Plain C++. The codec is the reference itself.

namespace turbo {

inline void rotate(const float * x, float * y) {
    memcpy(y, x, QK_TURBO*sizeof(float));
    ggml_turbo_rotate(y, QK_TURBO);
}

inline void rotate_inverse(float * x) {
    ggml_turbo_rotate_inverse(x, QK_TURBO);
}

#define GGML_TURBO_REFERENCE_CODEC // quantize_row_turbo*_ref is as fast as anything here

struct KeyTile {
    int8_t code[TILE][QK_TURBO];
    float  gain[TILE];
};
typedef KeyTile ValueTile;

template <int BITS> inline void load_keys(KeyTile & tile, const ggml_turbo_code & code, const char * rows, size_t stride, int n) {
    const ggml_type type = (ggml_type) (GGML_TYPE_TURBO2 + BITS - 2);
    for (int p = 0; p < TILE; p++) {
        uint8_t idx[QK_TURBO];
        ggml_turbo_unpack(type, row_at(rows, stride, p, n), idx);
        for (int j = 0; j < QK_TURBO; j++) {
            tile.code[p][j] = code.kv[idx[j]];
        }
    }
    load_gains(tile.gain, rows, stride, n);
}

template <int BITS> inline void load_values(ValueTile & tile, const ggml_turbo_code & code, const char * rows, size_t stride, int n) {
    load_keys<BITS>(tile, code, rows, stride, n);
}

inline void add_scores(float * S, const KeyTile & tile, const char * q, size_t q_stride, int R) {
    for (int r = 0; r < R; r++) {
        const block_turbo_q * row = (const block_turbo_q *) (q + r*q_stride);
        for (int p = 0; p < TILE; p++) {
            int32_t sum = 0;
            for (int j = 0; j < QK_TURBO; j++) {
                sum += tile.code[p][j]*row->qs[j];
            }
            S[r*TILE + p] += sum*(row->d*tile.gain[p]);
        }
    }
}

inline void add_values(float * O, int64_t ldo, const ValueTile & tile, const float * P, int R) {
    for (int r = 0; r < R; r++) {
        int16_t w[TILE];
        int32_t sum[QK_TURBO] = { 0 };
        const float unit = weights(P + r*TILE, tile.gain, w);
        for (int p = 0; p < TILE; p++) {
            for (int j = 0; j < QK_TURBO; j++) {
                sum[j] += w[p]*tile.code[p][j];
            }
        }
        for (int j = 0; j < QK_TURBO; j++) {
            O[r*ldo + j] += sum[j]*unit;
        }
    }
}

} // namespace turbo
