// Token-wise quantization of an activation of few tokens to E4M3, with the first half of the low-rank branches that read it:
// bound by reading x and writing the codes once.
//
// Cluster    ZQC_CLUSTER blocks split K of ZQC_TOKENS tokens between them: registers hold the values from the one read to the
//            conversion, and a few tokens still fill many multiprocessors. What they tell each other goes by asynchronous stores that
//            the receiver's mbarrier counts.
// Block      8 warps, each with ZQC_TOKENS / 8 tokens of a tile; a lane holds 8 neighbouring values at a time, 16-bit inputs as they came.
//            Where a launch has fewer clusters than tiles, a cluster goes on to the next, read while the branch of this one is multiplied.
// Steps      1. read, apply the operator before, largest magnitude (and sum of squares) of each token over the cluster;
//            2. scale, convert, into shared memory as the linear kernels want it, bulk copies to global memory;
//            3. two warpgroups multiply the codes by V, straight from there (wgmma, E4M3), every other block of K each; the cluster
//            adds up; bf16.
// Shared     codes ZQC_TOKENS * 128 and V ZQC_RANK * 128 bytes a block of K, sums. V stays for all tiles where 64 KiB hold it, else it passes
//            by once a tile. For 8 tokens of 4096 with rank 16: 106 KiB in one block, 30 KiB in each of a cluster of 8.
//
// Tokens that are codes already (ZQC_INPUT 3) only change places, and V is multiplied; their scales stay where they are.
//
// ZQC_K       features          ZQC_RANK   stacked rank of the branches, 0 without     ZQC_INPUT    0 bf16, 1 f16, 2 f32, 3 E4M3
// ZQC_MODE    0 plain, 1 RMSNorm with weight x2, 2 SiLU(x) * x2                        ZQC_TOKENS   8, 16, 32
// ZQC_CLUSTER 1, 2, 4, 8
#include "quantize_low_rank.cuh"

extern "C" __device__ const u32 zqc_launch[5] = {THREADS, SHARED_BYTES, CLUSTER, 1, TOKENS};

// The tokens of a warp, from the read to the conversion.
struct Tokens {
    Shared shared;
    Share share;
    const void* x;
    const void* x2;
    long long x_stride, x2_stride;
    int m, warp, lane;
    bool aligned, aligned2;
    Vector vectors[WARP_TOKENS][LANE_VECTORS]{};
    float magnitudes[WARP_TOKENS]{}, squares[WARP_TOKENS]{};

    DEVICE_MEMBER Tokens(Shared shared, Share share, const void* x, const void* x2, long long x_stride, long long x2_stride, int m,
                         int warp, int lane)
        : shared(shared), share(share), x(x), x2(x2), x_stride(x_stride), x2_stride(x2_stride), m(m), warp(warp), lane(lane),
          aligned(is_aligned(x, x_stride)), aligned2(is_aligned(x2, ZQC_MODE == Mode::RMS_NORM ? 0 : x2_stride)) {}

    DEVICE_MEMBER int row(int i) const { return warp * WARP_TOKENS + i; }
    DEVICE_MEMBER int place(int v) const { return (v * 32 + lane) * VECTOR; }  // in the share
    DEVICE_MEMBER int column(int v) const { return share.first * K_BLOCK + place(v); }
    DEVICE_MEMBER bool exists(int token, int v) const { return token < m && place(v) < share.blocks * K_BLOCK; }

    DEVICE_MEMBER void read(int first_token) {
#pragma unroll
        for (int i = 0; i < WARP_TOKENS; ++i) {
            const int token = first_token + row(i);
#pragma unroll
            for (int v = 0; v < LANE_VECTORS; ++v) {
                Vector& vector = vectors[i][v];
                if (!exists(token, v)) {
                    vector = Vector{};
                } else if constexpr (CODED) {
                    load_codes(x, token * x_stride, column(v), aligned, vector.words);
                } else if constexpr (PACKED) {
                    load_words(x, token * x_stride, column(v), aligned, vector.words);
                } else {
                    float values[VECTOR];
                    load_values(x, token * x_stride, column(v), aligned, values);
                    vector.set(values);
                }
            }
        }
    }

    // The prologue, as far as it does not need the whole token; largest magnitudes and sums of squares in this share.
    DEVICE_MEMBER void measure(int first_token) {
        if constexpr (CODED) return;
#pragma unroll
        for (int i = 0; i < WARP_TOKENS; ++i) {
            const int token = first_token + row(i);
            float magnitude = 0.f, square = 0.f;
            u32 halves = 0;
#pragma unroll
            for (int v = 0; v < LANE_VECTORS; ++v) {
                Vector& vector = vectors[i][v];
                // Magnitudes of 16-bit floats are in the order of their bits. Not `if constexpr`, which changes the register allocation.
                if (PACKED && ZQC_MODE == Mode::PLAIN) {
#pragma unroll
                    for (u32 word : vector.words) halves = larger_halves(halves, word & 0x7FFF7FFFu);
                    continue;
                }
                float values[VECTOR], other[VECTOR];
                vector.get(values);
                if constexpr (ZQC_MODE != Mode::PLAIN) {
                    if (!exists(token, v)) continue;
                    load_values(x2, ZQC_MODE == Mode::RMS_NORM ? 0 : token * x2_stride, column(v), aligned2, other);
                }
                measure_values(values, other, magnitude, square);
                if constexpr (ZQC_MODE == Mode::SILU_MUL) vector.set(values);
            }
            if constexpr (PACKED && ZQC_MODE == Mode::PLAIN) {
                float first, second;
                expand(halves, first, second);
                magnitude = fmaxf(first, second);
            }
            magnitudes[i] = largest(magnitude);
            if constexpr (ZQC_MODE == Mode::RMS_NORM) squares[i] = sum(square);
        }
    }

    // Magnitudes and squares of the whole token, from all blocks of the cluster. `tile` counts the tiles of this block.
    DEVICE_MEMBER void exchange(int tile) {
        if constexpr (CLUSTER == 1) return;
        if constexpr (CODED) {  // as below, no block sends sums of this tile before all have read those of the last
            cluster_arrive();
            cluster_wait();
            return;
        }
        const int turn = tile & 1;
        const u32 full = shared.extremes_full(turn);
        if (lane < CLUSTER) {
#pragma unroll
            for (int i = 0; i < WARP_TOKENS; ++i) {
                const u32 to = shared.extremes(turn, share.rank) + row(i) * 4;
                Mail::send(lane, to, magnitudes[i], full);
                if constexpr (ZQC_MODE == Mode::RMS_NORM) Mail::send(lane, to + EXTREMES_BYTES, squares[i], full);
            }
        }
        barrier_wait(full, tile >> 1 & 1);
        if (threadIdx.x == 0) Mail::expect(full, EXTREMES * EXTREMES_BYTES);
#pragma unroll
        for (int i = 0; i < WARP_TOKENS; ++i) {
            magnitudes[i] = squares[i] = 0.f;
#pragma unroll
            for (int from = 0; from < CLUSTER; ++from) {
                const u32 at = shared.extremes(turn, from) + row(i) * 4;
                magnitudes[i] = fmaxf(magnitudes[i], load_shared_float(at));
                if constexpr (ZQC_MODE == Mode::RMS_NORM) squares[i] += load_shared_float(at + EXTREMES_BYTES);
            }
        }
    }

    DEVICE_MEMBER static void put(u32 to, u32 first, u32 second) {
        asm volatile("st.shared.v2.u32 [%0], {%1, %2};" ::"r"(to), "r"(first), "r"(second) : "memory");
    }

    // Scales to global, codes to shared memory.
    DEVICE_MEMBER void convert(int first_token, float* token_scales, float eps) {
#pragma unroll
        for (int i = 0; i < WARP_TOKENS; ++i) {
            const int token = first_token + row(i);
            const float norm = ZQC_MODE == Mode::RMS_NORM ? rsqrtf(squares[i] / K + eps) : 1.f;
            const float scale = fmaxf(magnitudes[i] * norm / LARGEST, LEAST_SCALE), divisor = scale / norm, reciprocal = 1.f / divisor;
            if (!CODED && share.rank == 0 && lane == 0 && token < m) token_scales[token] = scale;
#pragma unroll
            for (int v = 0; v < LANE_VECTORS; ++v) {
                const int at = v * 32 + lane, block = at / 16, part = at % 16 / 2;
                if (block >= share.blocks) continue;
                const u32 to = shared.codes(block) + row(i) * K_BLOCK + (part ^ (row(i) & 7)) * 16 + at % 2 * 8;
                if constexpr (CODED) {
                    put(to, vectors[i][v].words[0], vectors[i][v].words[1]);
                    continue;
                }
                float values[VECTOR];
                vectors[i][v].settle();
                vectors[i][v].get(values);
                if constexpr (ZQC_MODE == Mode::RMS_NORM) {
                    float gamma[VECTOR];
                    load_values(x2, 0, column(v), aligned2, gamma);
#pragma unroll
                    for (int k = 0; k < VECTOR; ++k) values[k] *= gamma[k];
                }
                put(to, four_codes(values, divisor, reciprocal), four_codes(values + 4, divisor, reciprocal));
            }
        }
    }
};

// The codes of a tile from shared to global memory. One thread.
DEVICE void copy_codes(Shared shared, Share share, u8* codes, int first_token, int m_pad) {
    const int rows = min(TOKENS, m_pad - first_token);
    for (int block = 0; block < share.blocks; ++block)
        copy_to_global(codes + (static_cast<u64>(share.first + block) * m_pad + first_token) * K_BLOCK, shared.codes(block),
                       rows * K_BLOCK);
    copies_to_global_commit();
}

extern "C" __global__ void __launch_bounds__(THREADS, PER_SM) __cluster_dims__(CLUSTER, 1, 1)
    zqc_quantize(const void* x, const void* x2, u8* codes, float* token_scales, void* inner, const u8* down, int m, int m_pad,
                 long long x_stride, long long x2_stride, float eps) {
    extern __shared__ u8 dynamic[];
    const Shared shared{(shared_address(dynamic) + 1023) / 1024 * 1024};
    const int rank = CLUSTER == 1 ? 0 : cluster_rank(), warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const Share share = Share::of(rank);
    LowRank low_rank(shared, share, down, inner, m, m_pad, warp, lane);

    if (threadIdx.x == 0) {
        Mail::init(shared.extremes_full(0), THREADS);
        Mail::init(shared.extremes_full(1), THREADS);
        Mail::init(shared.sums_full(), THREADS);
        barrier_init(shared.down_full(), 1);
        barrier_init_fence();
        Mail::expect(shared.extremes_full(0), EXTREMES * EXTREMES_BYTES);
        Mail::expect(shared.extremes_full(1), EXTREMES * EXTREMES_BYTES);
        if constexpr (RANK > 0) {
            low_rank.expect_sums();
            low_rank.copy_down(0, 0);
        }
    }
    __syncthreads();
    cluster_arrive_relaxed();
    launch_dependents();
    wait_for_dependencies();

    Tokens tokens(shared, share, x, x2, x_stride, x2_stride, m, warp, lane);
    const int stride = static_cast<int>(gridDim.x) / CLUSTER * TOKENS;
    int token = static_cast<int>(blockIdx.x) / CLUSTER * TOKENS;
    tokens.read(token);
    cluster_wait();  // every block of the cluster has begun
    for (int tile = 0; token < m; ++tile, token += stride) {
        tokens.measure(token);
        tokens.exchange(tile);
        tokens.convert(token, token_scales, eps);
        fence_for_async();
        __syncthreads();
        if (threadIdx.x == THREADS - 1) copy_codes(shared, share, codes, token, m_pad);
        tokens.read(token + stride);
        if constexpr (RANK > 0) {
            low_rank.multiply();
            low_rank.finish(token, tile);
        }
        if (token + stride >= m) break;
        if (threadIdx.x == THREADS - 1) copies_to_global_read();
        __syncthreads();  // the codes may be replaced
    }
    if (threadIdx.x == THREADS - 1) copies_to_global_wait();
}
