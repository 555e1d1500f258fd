// Token-wise quantization of an activation to E4M3, with the first half of the low-rank branches that read it:
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
#include "wgmma.cuh"

constexpr int K = ZQC_K, RANK = ZQC_RANK, TOKENS = ZQC_TOKENS, CLUSTER = ZQC_CLUSTER, SLICES = RANK / INNER_RANKS;
constexpr int WARPS = 8, THREADS = 32 * WARPS, WARP_TOKENS = TOKENS / WARPS, PARTS = TOKENS / 8;
constexpr int K_BLOCKS = ceil_div(K, K_BLOCK), SHARE = ceil_div(K_BLOCKS, CLUSTER);
constexpr int VECTOR = 8, LANE_VECTORS = ceil_div(SHARE * (K_BLOCK / VECTOR), 32);
constexpr float LARGEST = 448.f, LEAST_SCALE = 1e-12f;

// 16-bit inputs are held as they came, in half the registers; f32 inputs and products of two inputs as floats.
constexpr bool CODED = ZQC_INPUT == 3, PACKED = ZQC_INPUT != 2 && ZQC_MODE != 2;
constexpr int HELD = WARP_TOKENS * LANE_VECTORS * (CODED ? VECTOR / 4 : PACKED ? VECTOR / 2 : VECTOR);  // registers
static_assert(!CODED || ZQC_MODE == 0, "nothing is computed from codes before they are multiplied");
constexpr int PER_SM = HELD <= 16 ? 4 : HELD <= 32 ? 3 : HELD <= 88 ? 2 : 1;       // blocks of a multiprocessor

constexpr int TOKEN_BYTES = TOKENS * K_BLOCK;
constexpr int HALVES = 2;                // warpgroups, which multiply half of the blocks of K each
constexpr int SLICE_SUMS = PARTS * 512;  // bytes of the sums of 16 ranks
constexpr int OWNED_SLICES = ceil_div(SLICES, CLUSTER);
// V in passes of 64 ranks and as many blocks of K as 64 KiB hold.
constexpr int DOWN_ROWS = min_of(RANK, TILE_ROWS), DOWN_BYTES = DOWN_ROWS * K_BLOCK;
constexpr int CHUNK = RANK ? max_of(1, min_of(SHARE, 64 * 1024 / max_of(DOWN_BYTES, 1))) : 1;
constexpr int DOWN_AT = SHARE * TOKEN_BYTES;
// wgmma reads 64 rows of V where there may be 16: what it reads behind the last block must exist.
constexpr int SUMS_AT = DOWN_AT + (RANK ? CHUNK * DOWN_BYTES + TILE_ROWS * K_BLOCK : 0);
constexpr bool DOWN_STAYS = SLICES <= 4 && CHUNK == SHARE;
constexpr int SUMS_BYTES = HALVES * CLUSTER * OWNED_SLICES * SLICE_SUMS;
constexpr int EXTREMES_AT = SUMS_AT + SUMS_BYTES, EXTREMES_BYTES = CLUSTER * TOKENS * 4, EXTREMES = ZQC_MODE == 1 ? 2 : 1;
constexpr int BARRIERS_AT = EXTREMES_AT + 2 * EXTREMES * EXTREMES_BYTES, SHARED_BYTES = BARRIERS_AT + 4 * 8 + 1024;

extern "C" __device__ const u32 zqc_launch[5] = {THREADS, SHARED_BYTES, CLUSTER, 1, TOKENS};

using Mail = Mailbox<CLUSTER>;

DEVICE float load_shared_float(u32 address) {
    float value;
    asm volatile("ld.shared.f32 %0, [%1];" : "=f"(value) : "r"(address) : "memory");
    return value;
}

// Two 16-bit inputs, the first in the low half.
DEVICE void expand(u32 word, float& first, float& second) {
    if (ZQC_INPUT == 0) {
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
            if (!PACKED)
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
    if (ZQC_INPUT != 2) {
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
    const int bytes = CODED ? 1 : ZQC_INPUT == 2 ? 4 : 2;
    return ((reinterpret_cast<u64>(x) | static_cast<u64>(stride) * bytes) & (CODED ? 7 : 15)) == 0;
}

// Where things lie in the shared memory of this block.
struct Shared {
    u32 base;
    DEVICE_MEMBER u32 codes(int block) const { return base + block * TOKEN_BYTES; }
    DEVICE_MEMBER u32 down(int block) const { return base + DOWN_AT + block * DOWN_BYTES; }
    DEVICE_MEMBER u32 sums(int from, int owned) const { return base + SUMS_AT + (from * OWNED_SLICES + owned) * SLICE_SUMS; }
    // Of odd and even tiles in turn: a block may be one tile ahead of another.
    DEVICE_MEMBER u32 extremes(int turn, int from) const {
        return base + EXTREMES_AT + turn * EXTREMES * EXTREMES_BYTES + from * TOKENS * 4;
    }
    DEVICE_MEMBER u32 extremes_full(int turn) const { return base + BARRIERS_AT + 8 * turn; }
    DEVICE_MEMBER u32 down_full() const { return base + BARRIERS_AT + 16; }
    DEVICE_MEMBER u32 sums_full() const { return base + BARRIERS_AT + 24; }
};

// The columns of this block: `blocks` blocks of K from `first`.
struct Share {
    int rank, first, blocks;
};

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
          aligned(is_aligned(x, x_stride)), aligned2(is_aligned(x2, ZQC_MODE == 1 ? 0 : x2_stride)) {}

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
                } else if (CODED) {
                    load_codes(x, token * x_stride, column(v), aligned, vector.words);
                } else if (PACKED) {
                    load_words(x, token * x_stride, column(v), aligned, vector.words);
                } else {
                    float values[VECTOR];
                    load_values(x, token * x_stride, column(v), aligned, values);
                    vector.set(values);
                }
            }
        }
    }

    // The operator before, as far as it does not need the whole token; largest magnitudes and sums of squares in this share.
    DEVICE_MEMBER void measure(int first_token) {
        if (CODED) return;
#pragma unroll
        for (int i = 0; i < WARP_TOKENS; ++i) {
            const int token = first_token + row(i);
            float magnitude = 0.f, square = 0.f;
            u32 halves = 0;
#pragma unroll
            for (int v = 0; v < LANE_VECTORS; ++v) {
                Vector& vector = vectors[i][v];
                if (PACKED && ZQC_MODE == 0) {  // magnitudes of 16-bit floats are in the order of their bits
#pragma unroll
                    for (u32 word : vector.words) halves = larger_halves(halves, word & 0x7FFF7FFFu);
                    continue;
                }
                float values[VECTOR], other[VECTOR];
                vector.get(values);
                if (ZQC_MODE > 0) {
                    if (!exists(token, v)) continue;
                    load_values(x2, ZQC_MODE == 1 ? 0 : token * x2_stride, column(v), aligned2, other);
                }
#pragma unroll
                for (int k = 0; k < VECTOR; ++k) {
                    if (ZQC_MODE == 1) square += values[k] * values[k];
                    if (ZQC_MODE == 2) values[k] = values[k] / (1.f + __expf(-values[k]));
                    if (ZQC_MODE > 0) values[k] *= other[k];
                    magnitude = fmaxf(magnitude, fabsf(values[k]));
                }
                if (ZQC_MODE == 2) vector.set(values);
            }
            if (PACKED && ZQC_MODE == 0) {
                float first, second;
                expand(halves, first, second);
                magnitude = fmaxf(first, second);
            }
            magnitudes[i] = largest(magnitude);
            if (ZQC_MODE == 1) squares[i] = sum(square);
        }
    }

    // Magnitudes and squares of the whole token, from all blocks of the cluster. `tile` counts the tiles of this block.
    DEVICE_MEMBER void exchange(int tile) {
        if (CLUSTER == 1) return;
        if (CODED) {  // as below, no block sends sums of this tile before all have read those of the last
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
                if (ZQC_MODE == 1) Mail::send(lane, to + EXTREMES_BYTES, squares[i], full);
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
                if (ZQC_MODE == 1) squares[i] += load_shared_float(at + EXTREMES_BYTES);
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
            const float norm = ZQC_MODE == 1 ? rsqrtf(squares[i] / K + eps) : 1.f;
            const float scale = fmaxf(magnitudes[i] * norm / LARGEST, LEAST_SCALE), divisor = scale / norm, reciprocal = 1.f / divisor;
            if (!CODED && share.rank == 0 && lane == 0 && token < m) token_scales[token] = scale;
#pragma unroll
            for (int v = 0; v < LANE_VECTORS; ++v) {
                const int at = v * 32 + lane, block = at / 16, part = at % 16 / 2;
                if (block >= share.blocks) continue;
                const u32 to = shared.codes(block) + row(i) * K_BLOCK + (part ^ (row(i) & 7)) * 16 + at % 2 * 8;
                if (CODED) {
                    put(to, vectors[i][v].words[0], vectors[i][v].words[1]);
                    continue;
                }
                float values[VECTOR];
                vectors[i][v].settle();
                vectors[i][v].get(values);
                if (ZQC_MODE == 1) {
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

// The inner values of the low-rank branches.
struct LowRank {
    Shared shared;
    Share share;
    const u8* down;
    void* inner;
    int m, m_pad, warp, lane;
    u32 passes = 0;  // of V through shared memory

    DEVICE_MEMBER LowRank(Shared shared, Share share, const u8* down, void* inner, int m, int m_pad, int warp, int lane)
        : shared(shared), share(share), down(down), inner(inner), m(m), m_pad(m_pad), warp(warp), lane(lane) {}

    DEVICE_MEMBER int owned() const { return share.rank < SLICES ? (SLICES - 1 - share.rank) / CLUSTER + 1 : 0; }
    DEVICE_MEMBER void expect_sums() const { Mail::expect(shared.sums_full(), owned() * HALVES * CLUSTER * SLICE_SUMS); }

    // Copies ranks 64 q on of the blocks `chunk` to `chunk + CHUNK` of the share of V. One thread.
    DEVICE_MEMBER void copy_down(int q, int chunk) const {
        const int count = min(CHUNK, share.blocks - chunk), bytes = min(TILE_ROWS, RANK - q * TILE_ROWS) * K_BLOCK;
        if (count <= 0) return;
        barrier_expect(shared.down_full(), count * bytes);
        for (int i = 0; i < count; ++i)
            copy_to_shared(shared.down(i), down + (static_cast<u64>(share.first + chunk + i) * RANK + q * TILE_ROWS) * K_BLOCK, bytes,
                           shared.down_full());
    }

    // Adds a chunk of V times the codes to `sums`.
    DEVICE_MEMBER void multiply(int q, int chunk, float (&sums)[TOKENS / 2]) {
        if (passes > 0 && !DOWN_STAYS) {
            __syncthreads();
            if (threadIdx.x == 0) copy_down(q, chunk);
        }
        barrier_wait(shared.down_full(), DOWN_STAYS ? 0 : passes & 1);
        ++passes;
        for (int i = warp / 4; i < min(CHUNK, share.blocks - chunk); i += HALVES) {
            const u64 a = descriptor<Swizzle::Bytes128>(shared.down(i)), b = descriptor<Swizzle::Bytes128>(shared.codes(chunk + i));
            wgmma_fence();
#pragma unroll
            for (int j = 0; j < 4; ++j) Wgmma<TOKENS>::e4m3_shared(sums, a + 2 * j, b + 2 * j, 1);
            wgmma_commit();
        }
        wgmma_wait<0>();
    }

    // The sums of this block, to the blocks that own their slices.
    DEVICE_MEMBER void multiply() {
        for (int q = 0; q < ceil_div(SLICES, 4); ++q) {
            float sums[TOKENS / 2];
#pragma unroll
            for (int k = 0; k < TOKENS / 2; ++k) sums[k] = 0.f;
            for (int chunk = 0; chunk < share.blocks; chunk += CHUNK) multiply(q, chunk, sums);
            const int slice = 4 * q + warp % 4, owner = slice % CLUSTER;
            if (slice >= SLICES) continue;
            const u32 to = shared.sums(share.rank * HALVES + warp / 4, slice / CLUSTER) + lane * 16;
#pragma unroll
            for (int j = 0; j < PARTS; ++j)
                Mail::send(owner, to + j * 512, make_float4(sums[4 * j], sums[4 * j + 1], sums[4 * j + 2], sums[4 * j + 3]),
                           shared.sums_full());
        }
        Mail::sent(shared.sums_full());
    }

    // Adds up the slices that this block owns. `tile` counts the tiles of this block.
    DEVICE_MEMBER void finish(int first_token, int tile) const {
        if (owned() == 0) return;
        barrier_wait(shared.sums_full(), tile & 1);
        if (threadIdx.x == 0) expect_sums();
        for (int slice = share.rank; slice < SLICES; slice += CLUSTER) {
            for (int i = threadIdx.x; i < PARTS * 32; i += THREADS) {
                float4 total = make_float4(0.f, 0.f, 0.f, 0.f);
#pragma unroll
                for (int from = 0; from < HALVES * CLUSTER; ++from) {
                    const float4 part = load_shared_floats(shared.sums(from, slice / CLUSTER) + i * 16);
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
    const int first_block = rank * K_BLOCKS / CLUSTER;
    const Share share{rank, first_block, (rank + 1) * K_BLOCKS / CLUSTER - first_block};
    LowRank low_rank(shared, share, down, inner, m, m_pad, warp, lane);

    if (threadIdx.x == 0) {
        Mail::init(shared.extremes_full(0), THREADS);
        Mail::init(shared.extremes_full(1), THREADS);
        Mail::init(shared.sums_full(), THREADS);
        barrier_init(shared.down_full(), 1);
        barrier_init_fence();
        Mail::expect(shared.extremes_full(0), EXTREMES * EXTREMES_BYTES);
        Mail::expect(shared.extremes_full(1), EXTREMES * EXTREMES_BYTES);
        if (RANK > 0) {
            low_rank.expect_sums();
            low_rank.copy_down(0, 0);
        }
    }
    __syncthreads();
    cluster_arrive_relaxed();
    launch_dependents();
    wait_for_dependencies();

    Tokens tokens(shared, share, x, x2, x_stride, x2_stride, m, warp, lane);
    const int apart = static_cast<int>(gridDim.x) / CLUSTER * TOKENS;
    int token = static_cast<int>(blockIdx.x) / CLUSTER * TOKENS;
    tokens.read(token);
    cluster_wait();  // every block of the cluster has begun
    for (int tile = 0; token < m; ++tile, token += apart) {
        tokens.measure(token);
        tokens.exchange(tile);
        tokens.convert(token, token_scales, eps);
        fence_for_async();
        __syncthreads();
        if (threadIdx.x == THREADS - 1) copy_codes(shared, share, codes, token, m_pad);
        tokens.read(token + apart);
        if (RANK > 0) {
            low_rank.multiply();
            low_rank.finish(token, tile);
        }
        if (token + apart >= m) break;
        if (threadIdx.x == THREADS - 1) copies_to_global_read();
        __syncthreads();  // the codes may be replaced
    }
    if (threadIdx.x == THREADS - 1) copies_to_global_wait();
}
