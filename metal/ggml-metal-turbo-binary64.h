#pragma once

// Positive binary64 numbers in integers. MSL has no double, and pairs of floats do not survive fast-math; integers do.
//
// A number is its IEEE bits, so that unsigned comparison orders them. Zero is 0; there is no infinity, no NaN and no
// subnormal. Every function rounds to nearest even once, as the processor does in the reference.

#define TURBO_HIDDEN (1ul << 52)

static inline ulong turbo64_mantissa(ulong a) { return (a & (TURBO_HIDDEN - 1)) | TURBO_HIDDEN; }
// of the integer mantissa
static inline int turbo64_exponent(ulong a) { return (int) (a >> 52) - 1075; }

static inline int turbo_leading_zeros(ulong m) {
    const uint high = (uint) (m >> 32);
    return high != 0 ? clz(high) : 32 + clz((uint) m);
}

// m 2^exponent, and a bit more where `more` says so. m has at least 55 bits if `more` is set.
static inline ulong turbo64_round(ulong m, int exponent, bool more) {
    if (m == 0) {
        return 0;
    }
    const int zeros = turbo_leading_zeros(m);
    m <<= zeros;
    const ulong rest = m & 0x7ff;
    const ulong up   = rest > 0x400 || (rest == 0x400 && (more || (m & 0x800) != 0)) ? 1 : 0;
    // a carry out of the mantissa moves into the exponent, which is what it should do
    return ((ulong) (exponent - zeros + 1086) << 52) + ((m >> 11) - TURBO_HIDDEN) + up;
}

// y^2, exact. A float that is subnormal counts as zero: a GPU has none.
static inline ulong turbo64_square(float y) {
    const uint bits = as_type<uint>(y);
    const int  e    = (int) (bits >> 23 & 0xff);
    if (e == 0) {
        return 0;
    }
    const ulong m = (bits & 0x7fffff) | 0x800000;
    return turbo64_round(m*m, 2*(e - 150), false);
}

static inline ulong turbo64_add(ulong x, ulong y) {
    const ulong a = x > y ? x : y;
    const ulong b = x > y ? y : x;
    if (b == 0) {
        return a;
    }
    const int   shift = (int) (a >> 52) - (int) (b >> 52);
    const ulong ma    = turbo64_mantissa(a) << 10;
    const ulong mb    = turbo64_mantissa(b) << 10;
    const ulong moved = shift > 63 ? 0 : mb >> shift;
    const bool  more  = shift > 63 || moved << shift != mb;
    return turbo64_round(ma + moved, turbo64_exponent(a) - 10, more);
}

static inline ulong turbo64_divide(ulong a, ulong b) {
    const ulong mb = turbo64_mantissa(b);
    ulong rest = turbo64_mantissa(a), quotient = 0;
    for (short i = 0; i < 57; i++) {
        const bool bit = rest >= mb;
        quotient = quotient << 1 | (bit ? 1 : 0);
        rest     = (bit ? rest - mb : rest) << 1;
    }
    return turbo64_round(quotient, turbo64_exponent(a) - turbo64_exponent(b) - 56, rest != 0);
}

static inline ulong turbo64_sqrt(ulong a) {
    const int e = turbo64_exponent(a);
    ulong digits = turbo64_mantissa(a) << (10 + (e & 1)); // 54 bits at the top, taken two at a time
    ulong rest = 0, root = 0;
    for (short i = 0; i < 55; i++) {
        rest   = rest << 2 | digits >> 62;
        digits = digits << 2;
        const ulong trial = root << 2 | 1;
        const bool  bit   = rest >= trial;
        rest = bit ? rest - trial : rest;
        root = root << 1 | (bit ? 1 : 0);
    }
    return turbo64_round(root, (e - (e & 1))/2 - 28, rest != 0);
}

// a 2^n
static inline ulong turbo64_scale(ulong a, int n) { return a + ((ulong) (long) n << 52); }

static inline ulong turbo64_of(ulong n) { return turbo64_round(n, 0, false); }

// The nearest float, for numbers in the range of normal floats.
static inline float turbo64_to_float(ulong a) {
    const ulong m    = a & (TURBO_HIDDEN - 1);
    const uint  rest = (uint) m & 0x1fffffff;
    const uint  keep = (uint) (m >> 29);
    const uint  up   = rest > 0x10000000 || (rest == 0x10000000 && (keep & 1) != 0) ? 1 : 0;
    return as_type<float>((uint) ((((int) (a >> 52) - 896) << 23) + (int) (keep + up)));
}

// Bits of the nearest half, subnormal ones too, for normal floats from 0 to 65504.
static inline ushort turbo_half_bits(float x) {
    const uint bits = as_type<uint>(x);
    const int  e    = (int) (bits >> 23) - 127;
    const int  drop = e >= -14 ? 13 : -1 - e;
    if (drop > 25) {
        return 0;
    }
    const uint m    = (bits & 0x7fffff) | 0x800000;
    const uint keep = m >> drop;
    const uint rest = m & ((1u << drop) - 1);
    const uint tie  = 1u << (drop - 1);
    const uint up   = rest > tie || (rest == tie && (keep & 1) != 0) ? 1 : 0;
    return (ushort) ((e >= -14 ? (uint) (e + 14) << 10 : 0) + keep + up);
}
