#pragma once

// Tables of the turbo types, rendered by `python -m tqconvert.metal.turbo.tables` from the NumPy reference.
// Do not edit: a test compares this file with what the reference renders.

// Bit t of word p: whether value t + 32 p of a block changes its sign before the transform.
constant uint turbo_negative[4] = { 0x03278d5e, 0x987ce6b8, 0x982dd109, 0xfc5d5e2a };

// Codebooks by bits - 2, ascending, filled up with zeros.
constant float turbo_levels[3][16] = {
    { -100.0f, -30.0f, 30.0f, 100.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f },
    { -114.0f, -71.0f, -40.0f, -13.0f, 13.0f, 40.0f, 71.0f, 114.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f },
    { -104.0f, -79.0f, -62.0f, -48.0f, -36.0f, -25.0f, -15.0f, -5.0f, 5.0f, 15.0f, 25.0f, 36.0f, 48.0f, 62.0f, 79.0f, 104.0f },
};

// Steps between neighbouring magnitudes of a codebook, the smallest magnitude first.
constant short turbo_steps[3][8] = {
    { 30, 70, 0, 0, 0, 0, 0, 0 },
    { 13, 27, 31, 43, 0, 0, 0, 0 },
    { 5, 10, 10, 11, 12, 14, 17, 25 },
};

// Thresholds between magnitudes for each candidate of the scale search, in fixed-point steps.
constant short turbo_thresholds[3][9][7] = {
    {
        { 1664, 0, 0, 0, 0, 0, 0 },
        { 1768, 0, 0, 0, 0, 0, 0 },
        { 1872, 0, 0, 0, 0, 0, 0 },
        { 1976, 0, 0, 0, 0, 0, 0 },
        { 2080, 0, 0, 0, 0, 0, 0 },
        { 2184, 0, 0, 0, 0, 0, 0 },
        { 2288, 0, 0, 0, 0, 0, 0 },
        { 2392, 0, 0, 0, 0, 0, 0 },
        { 2496, 0, 0, 0, 0, 0, 0 },
    },
    {
        { 678, 1421, 2368, 0, 0, 0, 0 },
        { 721, 1510, 2516, 0, 0, 0, 0 },
        { 763, 1598, 2664, 0, 0, 0, 0 },
        { 806, 1687, 2812, 0, 0, 0, 0 },
        { 848, 1776, 2960, 0, 0, 0, 0 },
        { 890, 1865, 3108, 0, 0, 0, 0 },
        { 933, 1954, 3256, 0, 0, 0, 0 },
        { 975, 2042, 3404, 0, 0, 0, 0 },
        { 1018, 2131, 3552, 0, 0, 0, 0 },
    },
    {
        { 256, 512, 781, 1075, 1408, 1805, 2342 },
        { 272, 544, 830, 1142, 1496, 1918, 2489 },
        { 288, 576, 878, 1210, 1584, 2030, 2635 },
        { 304, 608, 927, 1277, 1672, 2143, 2782 },
        { 320, 640, 976, 1344, 1760, 2256, 2928 },
        { 336, 672, 1025, 1411, 1848, 2369, 3074 },
        { 352, 704, 1074, 1478, 1936, 2482, 3221 },
        { 368, 736, 1122, 1546, 2024, 2594, 3367 },
        { 384, 768, 1171, 1613, 2112, 2707, 3514 },
    },
};

// Bits of binary64 numbers: fixed-point steps in one standard deviation; the energy of a block that counts as zero.
constant ulong turbo_unit[3] = { 0x40a08d810624dd2ful, 0x409a77837b4a233aul, 0x409313e0ded288ceul };
#define TURBO_TOO_SMALL 0x3bc79ca10c924223ul

#define TURBO_SCALES 9
#define TURBO_LOG2_GAIN 5
#define TURBO_RSQRT_128 0.08838834764831845f
