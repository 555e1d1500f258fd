// Token-wise quantization of an activation to E4M3, row by row as ONNX has it: bound by reading x once and the launch.
//
// Block      one token: its largest magnitude, then the codes of what it reads once more, out of L1 where the row fits.
// Values     those of the function QuantizeActivationE4M3, to the bit: scale = max(largest / 448, 1e-12), codes x / scale to the nearest,
//            ties to even. Of a token that holds NaN or infinity the scale and all codes are NaN.
//
// ZQC_INPUT  0 bf16, 1 f16, 2 f32
#include "common.cuh"

constexpr int THREADS = 512, VECTOR = 4;
constexpr float LARGEST = 448.f, LEAST_SCALE = 1e-12f;
constexpr u32 INFINITE = 0x7F800000u, NAN_CODES = 0x7F7F7F7Fu;

extern "C" __device__ const u32 zqc_launch[5] = {THREADS, 0, 1, 1, 1};

DEVICE float value(const void* x, long long index) {
    if constexpr (ZQC_INPUT == Type::F32) return static_cast<const float*>(x)[index];
    return widen<ZQC_INPUT>(static_cast<const u16*>(x)[index]);
}

// Elements `index` to `index + 3`, of which `count` exist, and zeros.
DEVICE void load(const void* x, long long index, int count, bool aligned, float (&values)[VECTOR]) {
    if (aligned && count >= VECTOR) {
        if constexpr (ZQC_INPUT == Type::F32) {
            const float4 four = *reinterpret_cast<const float4*>(static_cast<const float*>(x) + index);
            values[0] = four.x, values[1] = four.y, values[2] = four.z, values[3] = four.w;
        } else {
            const uint2 four = *reinterpret_cast<const uint2*>(static_cast<const u16*>(x) + index);
            values[0] = widen<ZQC_INPUT>(four.x), values[1] = widen<ZQC_INPUT>(four.x >> 16);
            values[2] = widen<ZQC_INPUT>(four.y), values[3] = widen<ZQC_INPUT>(four.y >> 16);
        }
        return;
    }
#pragma unroll
    for (int i = 0; i < VECTOR; ++i) values[i] = i < count ? value(x, index + i) : 0.f;
}

DEVICE u32 four_codes(const float (&values)[VECTOR], float scale) {
    u32 codes;
    asm("{ .reg .b16 l, h;\n"
        "cvt.rn.satfinite.e4m3x2.f32 l, %2, %1;\n"
        "cvt.rn.satfinite.e4m3x2.f32 h, %4, %3;\n"
        "mov.b32 %0, {l, h}; }"
        : "=r"(codes)
        : "f"(__fdiv_rn(values[0], scale)), "f"(__fdiv_rn(values[1], scale)), "f"(__fdiv_rn(values[2], scale)),
          "f"(__fdiv_rn(values[3], scale)));
    return codes;
}

// The largest of the block, which has the bits of a magnitude: they are in the order of the values, NaN and infinity last.
DEVICE u32 largest(u32 bits) {
    __shared__ u32 warps[THREADS / 32];
    bits = __reduce_max_sync(~0u, bits);
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = bits;
    __syncthreads();
#pragma unroll
    for (u32 other : warps) bits = max(bits, other);
    return bits;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    zqc_quantize_rows(const void* x, u8* codes, float* token_scales, int k) {
    launch_dependents();
    wait_for_dependencies();
    const long long row = static_cast<long long>(blockIdx.x) * k;
    const bool aligned = (reinterpret_cast<u64>(x) & 15) == 0 && k % VECTOR == 0;
    const bool whole_words = (reinterpret_cast<u64>(codes) & 3) == 0 && k % VECTOR == 0;
    float values[VECTOR];

    u32 bits = 0;
#pragma unroll 4
    for (int column = threadIdx.x * VECTOR; column < k; column += THREADS * VECTOR) {
        load(x, row + column, k - column, aligned, values);
#pragma unroll
        for (float value : values) bits = max(bits, __float_as_uint(value) & 0x7FFFFFFFu);
    }
    bits = largest(bits);
    const bool is_finite = bits < INFINITE;
    const float scale = is_finite ? fmaxf(__fdiv_rn(__uint_as_float(bits), LARGEST), LEAST_SCALE) : __uint_as_float(0x7FC00000u);
    if (threadIdx.x == 0) token_scales[blockIdx.x] = scale;

    for (int column = threadIdx.x * VECTOR; column < k; column += THREADS * VECTOR) {
        load(x, row + column, k - column, aligned, values);
        const u32 four = is_finite ? four_codes(values, scale) : NAN_CODES;
        if (whole_words) {
            *reinterpret_cast<u32*>(codes + row + column) = four;
            continue;
        }
        for (int i = 0; i < min(VECTOR, k - column); ++i) codes[row + column + i] = static_cast<u8>(four >> 8 * i);
    }
}
