// What both quantization kernels are specialized for; loads of values, reductions over a warp, and the conversion to E4M3.
#pragma once
#include "common.cuh"

// What is computed from the input before it is quantized, as ZQC_MODE has it.
namespace Mode {
enum : int { PLAIN = 0, RMS_NORM = 1, SILU_MUL = 2 };
}

constexpr int K = ZQC_K, RANK = ZQC_RANK, CLUSTER = ZQC_CLUSTER, SLICES = RANK / INNER_RANKS;
constexpr int K_BLOCKS = ceil_div(K, K_BLOCK), SHARE = ceil_div(K_BLOCKS, CLUSTER), VECTOR = 8;
constexpr float LARGEST = 448.f, LEAST_SCALE = 1e-12f;

// 16-bit inputs are held as they came, in half the registers; f32 inputs and products of two inputs as floats.
constexpr bool CODED = ZQC_INPUT == Type::E4M3, PACKED = ZQC_INPUT != Type::F32 && ZQC_MODE != Mode::SILU_MUL;
static_assert(!CODED || ZQC_MODE == Mode::PLAIN, "nothing is computed from codes before they are multiplied");

// The columns of a block of threads: `blocks` blocks of K from `first`.
struct Share {
    int rank, first, blocks;

    static DEVICE_MEMBER Share of(int rank) {
        const int first = rank * K_BLOCKS / CLUSTER;
        return {rank, first, (rank + 1) * K_BLOCKS / CLUSTER - first};
    }
};

// Two 16-bit inputs, the first in the low half.
DEVICE void expand(u32 word, float& first, float& second) {
    if constexpr (ZQC_INPUT == Type::BF16) {
        first = __uint_as_float(word << 16);
        second = __uint_as_float(word & 0xFFFF0000u);
    } else {
        asm("{ .reg .b16 l, h; mov.b32 {l, h}, %2; cvt.f32.f16 %0, l; cvt.f32.f16 %1, h; }" : "=f"(first), "=f"(second) : "r"(word));
    }
}

// Eight neighbouring values of a token.
struct Vector {
    u32 words[PACKED ? VECTOR / 2 : VECTOR];

    DEVICE_MEMBER void get(float (&values)[VECTOR]) const {
#pragma unroll
        for (int i = 0; i < VECTOR; ++i) {
            if constexpr (!PACKED)
                values[i] = __uint_as_float(words[i]);
            else if (i % 2 == 0)
                expand(words[i / 2], values[i], values[i + 1]);
        }
    }

    DEVICE_MEMBER void set(const float (&values)[VECTOR]) {
#pragma unroll
        for (int i = 0; i < VECTOR; ++i) words[i] = __float_as_uint(values[i]);
    }

    // Keeps the compiler from holding the expanded values from one use to the next.
    DEVICE_MEMBER void settle() {
#pragma unroll
        for (u32& word : words) asm volatile("" : "+r"(word));
    }
};

// Elements `column` to `column + 7` of a row of 16-bit inputs that begins at element `row`, zeros behind K.
DEVICE void load_words(const void* x, long long row, int column, bool aligned, u32* words) {
    const u16* from = static_cast<const u16*>(x) + row + column;
    if (column + VECTOR <= K && aligned) {
        const uint4 eight = *reinterpret_cast<const uint4*>(from);
        words[0] = eight.x, words[1] = eight.y, words[2] = eight.z, words[3] = eight.w;
        return;
    }
#pragma unroll
    for (int i = 0; i < VECTOR; i += 2)
        words[i / 2] = (column + i < K ? from[i] : 0u) | (column + i + 1 < K ? from[i + 1] : 0u) << 16;
}

// The same of codes, four a word.
DEVICE void load_codes(const void* x, long long row, int column, bool aligned, u32* words) {
    const u8* from = static_cast<const u8*>(x) + row + column;
    if (column + VECTOR <= K && aligned) {
        const uint2 eight = *reinterpret_cast<const uint2*>(from);
        words[0] = eight.x, words[1] = eight.y;
        return;
    }
    words[0] = words[1] = 0;
#pragma unroll
    for (int i = 0; i < VECTOR; ++i) words[i / 4] |= column + i < K ? u32(from[i]) << i % 4 * 8 : 0u;
}

// The same of any floats.
DEVICE void load_values(const void* x, long long row, int column, bool aligned, float (&values)[VECTOR]) {
    if constexpr (ZQC_INPUT != Type::F32) {
        u32 words[VECTOR / 2];
        load_words(x, row, column, aligned, words);
#pragma unroll
        for (int i = 0; i < VECTOR; i += 2) expand(words[i / 2], values[i], values[i + 1]);
        return;
    }
    const float* from = static_cast<const float*>(x) + row + column;
    if (column + VECTOR <= K && aligned) {
        const float4 low = reinterpret_cast<const float4*>(from)[0], high = reinterpret_cast<const float4*>(from)[1];
        values[0] = low.x, values[1] = low.y, values[2] = low.z, values[3] = low.w;
        values[4] = high.x, values[5] = high.y, values[6] = high.z, values[7] = high.w;
        return;
    }
#pragma unroll
    for (int i = 0; i < VECTOR; ++i) values[i] = column + i < K ? from[i] : 0.f;
}

// The prologue of eight values, as far as it does not need the whole token; `other` is the weight of the norm or the factor of the gate.
// Takes what the scale of the token needs of them: the largest magnitude and the sum of squares.
DEVICE void measure_values(float (&values)[VECTOR], const float (&other)[VECTOR], float& magnitude, float& square) {
#pragma unroll
    for (int k = 0; k < VECTOR; ++k) {
        if constexpr (ZQC_MODE == Mode::RMS_NORM) square += values[k] * values[k];
        if constexpr (ZQC_MODE == Mode::SILU_MUL) values[k] = values[k] / (1.f + __expf(-values[k]));
        if constexpr (ZQC_MODE != Mode::PLAIN) values[k] *= other[k];
        magnitude = fmaxf(magnitude, fabsf(values[k]));
    }
}

// x / scale, given 1 / scale: the product and one step of Newton's, which rounds as the division does.
DEVICE float divide(float x, float scale, float reciprocal) {
    const float quotient = x * reciprocal;
    return fmaf(fmaf(-quotient, scale, x), reciprocal, quotient);
}

// Four values divided by `scale` as E4M3 codes, saturating, ties to even.
DEVICE u32 four_codes(const float* values, float scale, float reciprocal) {
    u32 codes;
    asm("{ .reg .b16 l, h;\n"
        "cvt.rn.satfinite.e4m3x2.f32 l, %2, %1;\n"
        "cvt.rn.satfinite.e4m3x2.f32 h, %4, %3;\n"
        "mov.b32 %0, {l, h}; }"
        : "=r"(codes)
        : "f"(divide(values[0], scale, reciprocal)), "f"(divide(values[1], scale, reciprocal)),
          "f"(divide(values[2], scale, reciprocal)), "f"(divide(values[3], scale, reciprocal)));
    return codes;
}

DEVICE float largest(float value) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) value = fmaxf(value, __shfl_xor_sync(~0u, value, step));
    return value;
}

DEVICE float sum(float value) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(~0u, value, step);
    return value;
}

// The larger of each half.
DEVICE u32 larger_halves(u32 a, u32 b) {
    u32 larger;
    asm("max.u16x2 %0, %1, %2;" : "=r"(larger) : "r"(a), "r"(b));
    return larger;
}

DEVICE bool is_aligned(const void* x, long long stride) {
    const int bytes = CODED ? 1 : ZQC_INPUT == Type::F32 ? 4 : 2;
    return ((reinterpret_cast<u64>(x) | static_cast<u64>(stride) * bytes) & (CODED ? 7 : 15)) == 0;
}
