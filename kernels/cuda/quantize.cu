// Token-wise quantization of an activation to E4M3, with the first half of the low-rank branches that read it:
// bound by reading x and writing the codes once.
//
// Cluster    ZQC_CLUSTER blocks split K of ZQC_TOKENS tokens between them: registers hold the values from the one read to the
//            conversion, and a few tokens still fill many multiprocessors.
// Block      8 warps, each with ZQC_TOKENS / 8 tokens; a lane holds 8 neighbouring values at a time.
// Steps      1. read, apply the operator before, largest magnitude (and sum of squares) of each token over the cluster;
//            2. scale, convert, into shared memory as the linear kernels want it, bulk copies to global memory;
//            3. one warpgroup multiplies the codes by V, straight from there (wgmma, E4M3); the cluster adds up; bf16.
// Shared     codes ZQC_TOKENS * 128 and V ZQC_RANK * 128 bytes a block of K, sums; 51 KiB for 32 tokens of 4096 with rank 16
//            in a cluster of 8, 25 KiB for 8 tokens.
//
// ZQC_K       features          ZQC_RANK   stacked rank of the branches, 0 without     ZQC_INPUT    0 bf16, 1 f16, 2 f32
// ZQC_MODE    0 plain, 1 RMSNorm with weight x2, 2 SiLU(x) * x2                        ZQC_TOKENS   8, 16, 32
// ZQC_CLUSTER 1, 2, 4, 8
#include "wgmma.cuh"

constexpr int K = ZQC_K, RANK = ZQC_RANK, TOKENS = ZQC_TOKENS, CLUSTER = ZQC_CLUSTER, SLICES = RANK / INNER_RANKS;
constexpr int WARPS = 8, THREADS = 32 * WARPS, WARP_TOKENS = TOKENS / WARPS, PARTS = TOKENS / 8;
constexpr int K_BLOCKS = ceil_div(K, K_BLOCK), SHARE = ceil_div(K_BLOCKS, CLUSTER);
constexpr int VECTOR = 8, LANE_VECTORS = ceil_div(SHARE * (K_BLOCK / VECTOR), 32);
constexpr float LARGEST = 448.f, LEAST_SCALE = 1e-12f;

constexpr int TOKEN_BYTES = TOKENS * K_BLOCK;
constexpr int SLICE_SUMS = PARTS * 512;  // bytes of the sums of 16 ranks
// V in passes of 64 ranks and as many blocks of K as 48 KiB hold.
constexpr int DOWN_ROWS = min_of(RANK, TILE_ROWS), DOWN_BYTES = DOWN_ROWS * K_BLOCK;
constexpr int CHUNK = RANK ? max_of(1, min_of(SHARE, 48 * 1024 / max_of(DOWN_BYTES, 1))) : 1;
constexpr int DOWN_AT = SHARE * TOKEN_BYTES;
// wgmma reads 64 rows of V where there may be 16: what it reads behind the last block must exist.
constexpr int SUMS_AT = DOWN_AT + (RANK ? CHUNK * DOWN_BYTES + TILE_ROWS * K_BLOCK : 0);
constexpr int EXTREMES_AT = SUMS_AT + CLUSTER * SLICES * SLICE_SUMS;
constexpr int BARRIER_AT = EXTREMES_AT + 2 * CLUSTER * TOKENS * 4, SHARED_BYTES = BARRIER_AT + 8 + 1024;

extern "C" __device__ const u32 zqc_launch[5] = {THREADS, SHARED_BYTES, CLUSTER, 1, TOKENS};

DEVICE void store_remote(u32 address, float value) {
    asm volatile("st.shared::cluster.f32 [%0], %1;" ::"r"(address), "f"(value) : "memory");
}

DEVICE void store_remote(u32 address, float a, float b, float c, float d) {
    asm volatile("st.shared::cluster.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(address), "f"(a), "f"(b), "f"(c), "f"(d) : "memory");
}

DEVICE float load_shared_float(u32 address) {
    float value;
    asm volatile("ld.shared.f32 %0, [%1];" : "=f"(value) : "r"(address) : "memory");
    return value;
}

// Every write to the shared memory of the cluster is visible after this.
DEVICE void synchronize() {
    if (CLUSTER == 1) {
        __syncthreads();
    } else {
        cluster_arrive();
        cluster_wait();
    }
}

DEVICE float element(const void* x, long long index) {
    float value;
    if (ZQC_INPUT == 2) return static_cast<const float*>(x)[index];
    const u32 half = static_cast<const u16*>(x)[index];
    if (ZQC_INPUT == 0) return __uint_as_float(half << 16);
    asm("{ .reg .b16 h; cvt.u16.u32 h, %1; cvt.f32.f16 %0, h; }" : "=f"(value) : "r"(half));
    return value;
}

// Elements `column` to `column + 7` of the row that begins at `row`, zeros behind K.
DEVICE void load_vector(const void* x, long long row, int column, bool aligned, float (&values)[VECTOR]) {
    if (column + VECTOR > K || !aligned) {
#pragma unroll
        for (int i = 0; i < VECTOR; ++i) values[i] = column + i < K ? element(x, row + column + i) : 0.f;
    } else if (ZQC_INPUT == 2) {
        const float4* from = reinterpret_cast<const float4*>(static_cast<const float*>(x) + row + column);
        const float4 low = from[0], high = from[1];
        values[0] = low.x, values[1] = low.y, values[2] = low.z, values[3] = low.w;
        values[4] = high.x, values[5] = high.y, values[6] = high.z, values[7] = high.w;
    } else {
        const uint4 eight = *reinterpret_cast<const uint4*>(static_cast<const u16*>(x) + row + column);
        const u32 words[4] = {eight.x, eight.y, eight.z, eight.w};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            if (ZQC_INPUT == 0) {
                values[2 * i] = __uint_as_float(words[i] << 16);
                values[2 * i + 1] = __uint_as_float(words[i] & 0xFFFF0000u);
            } else {
                asm("{ .reg .b16 l, h; mov.b32 {l, h}, %2; cvt.f32.f16 %0, l; cvt.f32.f16 %1, h; }"
                    : "=f"(values[2 * i]), "=f"(values[2 * i + 1])
                    : "r"(words[i]));
            }
        }
    }
}

DEVICE bool is_aligned(const void* x, long long stride) {
    const int bytes = ZQC_INPUT == 2 ? 4 : 2;
    return ((reinterpret_cast<u64>(x) | static_cast<u64>(stride) * bytes) & 15) == 0;
}

// x / scale, given 1 / scale: the product and one step of Newton's, which rounds as the division does.
DEVICE float divide(float x, float scale, float reciprocal) {
    const float quotient = x * reciprocal;
    return fmaf(fmaf(-quotient, scale, x), reciprocal, quotient);
}

// Four values divided by `scale` as E4M3 codes, saturating, ties to even.
DEVICE u32 convert(const float* values, float scale, float reciprocal) {
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

extern "C" __global__ void __launch_bounds__(THREADS) __cluster_dims__(CLUSTER, 1, 1)
    zqc_quantize(const void* x, const void* x2, u8* codes, float* token_scales, void* inner, const u8* down, int m, int m_pad,
                 long long x_stride, long long x2_stride, float eps) {
    extern __shared__ u8 dynamic[];
    const u32 base = (shared_address(dynamic) + 1023) / 1024 * 1024, barrier = base + BARRIER_AT;
    const int rank = CLUSTER == 1 ? 0 : cluster_rank(), warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int first_token = static_cast<int>(blockIdx.x) / CLUSTER * TOKENS;
    const int first_block = rank * K_BLOCKS / CLUSTER, blocks = (rank + 1) * K_BLOCKS / CLUSTER - first_block;

    // Copies ranks 64 q on of the blocks `chunk` to `chunk + CHUNK` of this rank's share of V.
    const auto copy_down = [&](int q, int chunk) {
        const int count = min(CHUNK, blocks - chunk), bytes = min(TILE_ROWS, RANK - q * TILE_ROWS) * K_BLOCK;
        barrier_expect(barrier, count * bytes);
        for (int i = 0; i < count; ++i)
            copy_to_shared(base + DOWN_AT + i * DOWN_BYTES,
                           down + (static_cast<u64>(first_block + chunk + i) * RANK + q * TILE_ROWS) * K_BLOCK, bytes, barrier);
    };
    if (RANK > 0 && threadIdx.x == 0) {
        barrier_init(barrier, 1);
        barrier_init_fence();
        if (blocks > 0) copy_down(0, 0);
    }
    launch_dependents();
    wait_for_dependencies();
    if (CLUSTER > 1) cluster_arrive();

    // 1. Values, largest magnitudes, sums of squares.
    const bool aligned = is_aligned(x, x_stride), aligned2 = ZQC_MODE == 1 ? is_aligned(x2, 0) : is_aligned(x2, x2_stride);
    float values[WARP_TOKENS][LANE_VECTORS][VECTOR];
#pragma unroll
    for (int i = 0; i < WARP_TOKENS; ++i) {
        const int token = first_token + warp * WARP_TOKENS + i;
#pragma unroll
        for (int v = 0; v < LANE_VECTORS; ++v) {
            const int at = (v * 32 + lane) * VECTOR, column = first_block * K_BLOCK + at;
            if (token < m && at < blocks * K_BLOCK) {
                load_vector(x, token * x_stride, column, aligned, values[i][v]);
            } else {
#pragma unroll
                for (int k = 0; k < VECTOR; ++k) values[i][v][k] = 0.f;
            }
        }
    }
    float magnitudes[WARP_TOKENS], squares[WARP_TOKENS];
#pragma unroll
    for (int i = 0; i < WARP_TOKENS; ++i) {
        const int token = first_token + warp * WARP_TOKENS + i;
        magnitudes[i] = squares[i] = 0.f;
#pragma unroll
        for (int v = 0; v < LANE_VECTORS; ++v) {
            const int at = (v * 32 + lane) * VECTOR, column = first_block * K_BLOCK + at;
            float other[VECTOR];
            if (ZQC_MODE > 0 && token < m && at < blocks * K_BLOCK)
                load_vector(x2, ZQC_MODE == 1 ? 0 : token * x2_stride, column, aligned2, other);
#pragma unroll
            for (int k = 0; k < VECTOR; ++k) {
                float& value = values[i][v][k];
                if (ZQC_MODE > 0 && token < m && at < blocks * K_BLOCK) {
                    squares[i] += value * value;
                    if (ZQC_MODE == 2) value = value / (1.f + __expf(-value));
                    value *= other[k];
                }
                magnitudes[i] = fmaxf(magnitudes[i], fabsf(value));
            }
        }
        magnitudes[i] = largest(magnitudes[i]);
        if (ZQC_MODE == 1) squares[i] = sum(squares[i]);
    }
    if (CLUSTER > 1) {
        const u32 extremes = base + EXTREMES_AT;
        cluster_wait();  // every block of the cluster has begun
        if (lane < CLUSTER) {
#pragma unroll
            for (int i = 0; i < WARP_TOKENS; ++i) {
                const u32 at = extremes + (rank * TOKENS + warp * WARP_TOKENS + i) * 4;
                store_remote(map_to_rank(at, lane), magnitudes[i]);
                if (ZQC_MODE == 1) store_remote(map_to_rank(at + CLUSTER * TOKENS * 4, lane), squares[i]);
            }
        }
        synchronize();
#pragma unroll
        for (int i = 0; i < WARP_TOKENS; ++i) {
            magnitudes[i] = squares[i] = 0.f;
#pragma unroll
            for (int from = 0; from < CLUSTER; ++from) {
                const u32 at = extremes + (from * TOKENS + warp * WARP_TOKENS + i) * 4;
                magnitudes[i] = fmaxf(magnitudes[i], load_shared_float(at));
                if (ZQC_MODE == 1) squares[i] += load_shared_float(at + CLUSTER * TOKENS * 4);
            }
        }
    }

    // 2. Codes.
#pragma unroll
    for (int i = 0; i < WARP_TOKENS; ++i) {
        const int row = warp * WARP_TOKENS + i, token = first_token + row;
        const float norm = ZQC_MODE == 1 ? rsqrtf(squares[i] / K + eps) : 1.f;
        const float scale = fmaxf(magnitudes[i] * norm / LARGEST, LEAST_SCALE), divisor = scale / norm, reciprocal = 1.f / divisor;
        if (rank == 0 && lane == 0 && token < m) token_scales[token] = scale;
#pragma unroll
        for (int v = 0; v < LANE_VECTORS; ++v) {
            const int at = v * 32 + lane, block = at / 16, part = at % 16 / 2;
            const u32 to = base + block * TOKEN_BYTES + row * K_BLOCK + (part ^ (row & 7)) * 16 + at % 2 * 8;
            if (block < blocks)
                asm volatile("st.shared.v2.u32 [%0], {%1, %2};" ::"r"(to), "r"(convert(values[i][v], divisor, reciprocal)),
                             "r"(convert(values[i][v] + 4, divisor, reciprocal))
                             : "memory");
        }
    }
    fence_for_async();
    __syncthreads();
    if (threadIdx.x == THREADS - 1) {
        const int rows = min(TOKENS, m_pad - first_token);
        for (int block = 0; block < blocks; ++block)
            copy_to_global(codes + (static_cast<u64>(first_block + block) * m_pad + first_token) * K_BLOCK, base + block * TOKEN_BYTES,
                           rows * K_BLOCK);
        copies_to_global_commit();
    }

    // 3. Inner values of the low-rank branches.
    if (RANK > 0) {
        if (warp < 4) {
            u32 passes = 0;
            for (int q = 0; q < ceil_div(SLICES, 4); ++q) {
                float sums[TOKENS / 2];
#pragma unroll
                for (int k = 0; k < TOKENS / 2; ++k) sums[k] = 0.f;
                for (int chunk = 0; chunk < blocks; chunk += CHUNK, ++passes) {
                    if (passes > 0) {
                        asm volatile("bar.sync 1, 128;" ::: "memory");
                        if (threadIdx.x == 0) copy_down(q, chunk);
                    }
                    barrier_wait(barrier, passes & 1);
                    for (int i = 0; i < min(CHUNK, blocks - chunk); ++i) {
                        const u64 a = descriptor<Swizzle::Bytes128>(base + DOWN_AT + i * DOWN_BYTES);
                        const u64 b = descriptor<Swizzle::Bytes128>(base + (chunk + i) * TOKEN_BYTES);
                        wgmma_fence();
#pragma unroll
                        for (int j = 0; j < 4; ++j) Wgmma<TOKENS>::e4m3_shared(sums, a + 2 * j, b + 2 * j, 1);
                        wgmma_commit();
                    }
                    wgmma_wait<0>();
                }
                const int slice = 4 * q + warp;
                if (slice >= SLICES) continue;
                const u32 local = base + SUMS_AT + (rank * SLICES + slice) * SLICE_SUMS + lane * 16;
                const u32 to = CLUSTER == 1 ? local : map_to_rank(local, slice % CLUSTER);
#pragma unroll
                for (int j = 0; j < PARTS; ++j)
                    store_remote(to + j * 512, sums[4 * j], sums[4 * j + 1], sums[4 * j + 2], sums[4 * j + 3]);
            }
        }
        synchronize();
        for (int slice = rank; slice < SLICES; slice += CLUSTER) {
            for (int i = threadIdx.x; i < PARTS * 32; i += THREADS) {
                float4 total = make_float4(0.f, 0.f, 0.f, 0.f);
#pragma unroll
                for (int from = 0; from < CLUSTER; ++from) {
                    const float4 part = load_shared_floats(base + SUMS_AT + (from * SLICES + slice) * SLICE_SUMS + i * 16);
                    total.x += part.x, total.y += part.y, total.z += part.z, total.w += part.w;
                }
                const float ranks[2][2] = {{total.x, total.z}, {total.y, total.w}};
#pragma unroll
                for (int t = 0; t < 2; ++t) {
                    const int token = first_token + i / 32 * 8 + i % 4 * 2 + t;
                    if (token >= m) continue;
                    u16* row = static_cast<u16*>(inner) + (static_cast<u64>(slice) * m_pad + token) * INNER_RANKS;
#pragma unroll
                    for (int half = 0; half < 2; ++half)
                        store<0>(row, (half ^ (token >> 2 & 1)) * 8 + i % 32 / 4, ranks[t][half]);
                }
            }
        }
    }
    if (threadIdx.x == THREADS - 1) copies_to_global_wait();
}
