// quantize.cu for many tokens: the same codes and scales, with V x from registers.
//
// Cluster    ZQC_CLUSTER blocks split K of a tile between them. It goes on to further tiles, each read while the one before is converted.
// Block      one or two groups of 8 warps (16 where registers or V want it), each with 8 tokens of a tile. Of the blocks of K a warp has
//            every second and there 32 columns: lane l token l / 4 and the 8 columns from 8 (l % 4), which is whole sectors of x and of
//            the codes, and B of mma.sync (m16n8k16) as soon as the columns of V change places likewise.
// Steps      1. largest magnitude (and sum of squares) of each token, over the group and the cluster;
//            2. scale, convert, codes straight to global memory, V times the codes (E4M3 is exact in f16, sums are f32), read on;
//            3. one warp for each 16 ranks adds up, over the group and the cluster; bf16.
// Shared     V ZQC_RANK * 128 bytes a block of K, where that fits, else it is read from L2; sums. 8 tokens of 4096 with rank 16: 68 KiB.
//
// ZQC_K, ZQC_RANK, ZQC_INPUT, ZQC_MODE, ZQC_CLUSTER as in quantize.cu.
// ZQC_TOKENS  8: blocks of one group, 16: of two, which share V
#include "quantize_values.cuh"

constexpr int GROUP_TOKENS = 8, LARGEST_HELD = 64;  // registers for values
constexpr int RESERVED = 1024;                      // bytes of shared memory that the system takes from each block
constexpr int SLICE_SUMS = 512;                     // bytes of the sums of 16 ranks of 8 tokens
constexpr int PASS = SLICES % 3 == 0 ? 3 : SLICES % 2 == 0 ? 2 : 1;  // slices multiplied at a time
constexpr int DOWN_ROW_BLOCK = RANK * K_BLOCK, DOWN_BYTES = SHARE * DOWN_ROW_BLOCK;
constexpr int HELD_WORDS = CODED ? VECTOR / 4 : PACKED ? VECTOR / 2 : VECTOR;
constexpr bool PAIR = ZQC_TOKENS == 16;
constexpr bool FITS_TWICE = DOWN_BYTES + 8 * PASS * SLICE_SUMS + 4096 <= SHARED_LIMIT / 2 - RESERVED;
constexpr bool WIDE = ceil_div(SHARE, 2) * HELD_WORDS > LARGEST_HELD || (!PAIR && !FITS_TWICE);
constexpr int GROUPS = PAIR && !WIDE ? 2 : 1, WARPS = WIDE ? 16 : 8, GROUP_THREADS = 32 * WARPS, THREADS = GROUPS * GROUP_THREADS;
constexpr int TOKENS = GROUPS * GROUP_TOKENS;
constexpr int STEP = WARPS / 4;  // blocks of K from one vector of a lane to its next
constexpr int VECTORS = ceil_div(SHARE, STEP), HELD = VECTORS * HELD_WORDS;
constexpr int LIVE = HELD + 4 * PASS + (CODED ? 16 : 0);
constexpr int PER_SM = max_of(1, (LIVE <= 20 ? 1024 : LIVE <= 36 ? 768 : 512) / THREADS);
constexpr bool EVEN = K % K_BLOCK == 0 && K_BLOCKS % (CLUSTER * STEP) == 0;  // every lane has all its vectors
constexpr bool SILU_PACKED = ZQC_MODE == Mode::SILU_MUL && ZQC_INPUT != Type::F32;  // both inputs are held as they came

constexpr int OWNED_SLICES = ceil_div(SLICES, CLUSTER), EXTREMES = CODED ? 0 : ZQC_MODE == Mode::RMS_NORM ? 2 : 1;
constexpr int SUMS_BYTES = PASS * WARPS * SLICE_SUMS, MAIL_BYTES = CLUSTER > 1 ? CLUSTER * OWNED_SLICES * SLICE_SUMS : 0;
constexpr int LOCAL_BYTES = WARPS * GROUP_TOKENS * 4, EXTREMES_BYTES = CLUSTER * GROUP_TOKENS * 4;
constexpr int SUMS_AT = 0, MAIL_AT = RANK ? SUMS_AT + SUMS_BYTES : 0, LOCAL_AT = MAIL_AT + (RANK ? 2 * MAIL_BYTES : 0);
constexpr int EXTREMES_AT = LOCAL_AT + 2 * EXTREMES * LOCAL_BYTES, BARRIERS_AT = EXTREMES_AT + 2 * EXTREMES * EXTREMES_BYTES;
constexpr int GROUP_BYTES = (BARRIERS_AT + 4 * 8 + 127) / 128 * 128;
constexpr bool DOWN_STAYS = RANK > 0 && DOWN_BYTES + GROUPS * GROUP_BYTES + 128 <= SHARED_LIMIT;
constexpr int DOWN_AT = GROUPS * GROUP_BYTES, DOWN_FULL_AT = DOWN_AT + (DOWN_STAYS ? DOWN_BYTES : 0);
constexpr int SHARED_BYTES = DOWN_FULL_AT + 8;

using Mail = Mailbox<CLUSTER>;

extern "C" __device__ const u32 zqc_launch[5] = {THREADS, SHARED_BYTES, CLUSTER, 1, TOKENS};

// Where things lie in the shared memory of a group. What passes between blocks is that of odd and even tiles in turn: a block may be
// one tile ahead of another.
struct Shared {
    u32 base;
    DEVICE_MEMBER u32 sums(int slice, int warp) const { return base + SUMS_AT + (slice * WARPS + warp) * SLICE_SUMS; }
    DEVICE_MEMBER u32 mail(int turn, int from, int owned) const {
        return base + MAIL_AT + turn * MAIL_BYTES + (from * OWNED_SLICES + owned) * SLICE_SUMS;
    }
    DEVICE_MEMBER u32 local(int turn, int token) const { return base + LOCAL_AT + turn * EXTREMES * LOCAL_BYTES + token * WARPS * 4; }
    DEVICE_MEMBER u32 extremes(int turn, int from) const {
        return base + EXTREMES_AT + turn * EXTREMES * EXTREMES_BYTES + from * GROUP_TOKENS * 4;
    }
    DEVICE_MEMBER u32 extremes_full(int turn) const { return base + BARRIERS_AT + 8 * turn; }
    DEVICE_MEMBER u32 mail_full(int turn) const { return base + BARRIERS_AT + 16 + 8 * turn; }
};

DEVICE float load_shared_float(u32 address) {
    float value;
    asm volatile("ld.shared.f32 %0, [%1];" : "=f"(value) : "r"(address) : "memory");
    return value;
}

DEVICE void store_shared_float(u32 address, float value) { asm volatile("st.shared.f32 [%0], %1;" ::"r"(address), "f"(value) : "memory"); }

// Four codes as f16.
DEVICE void expand_codes(u32 codes, u32& first, u32& second) {
    asm("{ .reg .b16 l, h; mov.b32 {l, h}, %2; cvt.rn.f16x2.e4m3x2 %0, l; cvt.rn.f16x2.e4m3x2 %1, h; }"
        : "=r"(first), "=r"(second)
        : "r"(codes));
}

DEVICE void multiply(float (&sums)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// Where a thread is.
struct Place {
    int group, warp, lane;
    DEVICE_MEMBER int token() const { return lane / 4; }   // in the group's tile
    DEVICE_MEMBER int quarter() const { return lane % 4; }  // of the 32 columns of the warp
    DEVICE_MEMBER int column() const { return warp % 4 * 32 + quarter() * VECTOR; }  // in a block of K
    // Keeps the compiler from holding what it derives from the lane, in registers that the values want.
    DEVICE_MEMBER void settle() { asm volatile("" : "+r"(lane)); }

    // Waits for the group.
    DEVICE_MEMBER void synchronize() const {
        if (group == 0)
            asm volatile("bar.sync 1, %0;" ::"n"(GROUP_THREADS) : "memory");
        else
            asm volatile("bar.sync 2, %0;" ::"n"(GROUP_THREADS) : "memory");
    }
};

// The tokens of a group, from the read to the conversion; a lane has vectors of one.
struct Tokens {
    const Place& place;
    Shared shared;
    Share share;
    const void* x;
    const void* x2;
    long long x_stride, x2_stride;
    int m, count, blocks;  // vectors that lie in the share and in K, and those that are codes of the share
    bool aligned, aligned2;
    Vector vectors[VECTORS]{};
    float magnitude = 0.f, square = 0.f;

    DEVICE_MEMBER Tokens(const Place& place, Shared shared, Share share, const void* x, const void* x2, long long x_stride, long long x2_stride,
                         int m)
        : place(place), shared(shared), share(share), x(x), x2(x2), x_stride(x_stride), x2_stride(x2_stride), m(m),
          aligned2(is_aligned(x2, ZQC_MODE == Mode::RMS_NORM ? 0 : x2_stride)) {
        aligned = K % VECTOR == 0 && is_aligned(x, x_stride) && (!SILU_PACKED || aligned2);
        blocks = (share.blocks - place.warp / 4 + STEP - 1) / STEP;
        const int left = K - VECTOR - column(0);
        count = EVEN ? VECTORS : left < 0 ? 0 : min(blocks, left / (STEP * K_BLOCK) + 1);
    }

    DEVICE_MEMBER int column(int i) const { return (share.first + place.warp / 4 + i * STEP) * K_BLOCK + place.column(); }
    DEVICE_MEMBER bool exists(int i) const { return EVEN || i < blocks; }

    // Vector i of aligned rows.
    DEVICE_MEMBER void read(int i, int token) {
        u32* words = vectors[i].words;
        const bool is_there = token < m && (EVEN || i < count);
        const auto load = [&](const void* from, long long row, u32* to) {
            const int bytes = CODED ? 1 : ZQC_INPUT == Type::F32 ? 4 : 2;
            const u8* at = static_cast<const u8*>(from) + (row + column(0)) * bytes + i * STEP * K_BLOCK * bytes;
            if constexpr (CODED) {
                const uint2 two = is_there ? *reinterpret_cast<const uint2*>(at) : make_uint2(0, 0);
                to[0] = two.x, to[1] = two.y;
            } else {
#pragma unroll
                for (int part = 0; part < VECTOR * bytes / 16; ++part) {
                    const uint4 four = is_there ? reinterpret_cast<const uint4*>(at)[part] : make_uint4(0, 0, 0, 0);
                    to[4 * part] = four.x, to[4 * part + 1] = four.y, to[4 * part + 2] = four.z, to[4 * part + 3] = four.w;
                }
            }
        };
        load(x, token * x_stride, words);
        if constexpr (SILU_PACKED) load(x2, token * x2_stride, words + VECTOR / 2);
    }

    DEVICE_MEMBER void read(int token) {
        if (aligned) {
#pragma unroll
            for (int i = 0; i < VECTORS; ++i) read(i, token);
            return;
        }
#pragma unroll
        for (int i = 0; i < VECTORS; ++i) {
            Vector& vector = vectors[i];
            vector = Vector{};
            if (token >= m || !exists(i)) continue;
            if constexpr (CODED) {
                load_codes(x, token * x_stride, column(i), false, vector.words);
            } else if constexpr (ZQC_INPUT != Type::F32) {
                load_words(x, token * x_stride, column(i), false, vector.words);
                if constexpr (SILU_PACKED) load_words(x2, token * x2_stride, column(i), false, vector.words + VECTOR / 2);
            } else {
                float values[VECTOR];
                load_values(x, token * x_stride, column(i), false, values);
                vector.set(values);
            }
        }
    }

    // The prologue, as far as it does not need the whole token; largest magnitude and sum of squares of what the warp has of a token.
    DEVICE_MEMBER void measure(int token) {
        if constexpr (CODED) return;
        magnitude = square = 0.f;
        u32 halves = 0;
#pragma unroll
        for (int i = 0; i < VECTORS; ++i) {
            Vector& vector = vectors[i];
            if constexpr (PACKED && ZQC_MODE == Mode::PLAIN) {
#pragma unroll
                for (u32 word : vector.words) halves = larger_halves(halves, word & 0x7FFF7FFFu);
                continue;
            }
            float values[VECTOR], other[VECTOR];
            if constexpr (SILU_PACKED) {
#pragma unroll
                for (int k = 0; k < VECTOR; k += 2) {
                    expand(vector.words[k / 2], values[k], values[k + 1]);
                    expand(vector.words[(VECTOR + k) / 2], other[k], other[k + 1]);
                }
            } else {
                vector.get(values);
                if constexpr (ZQC_MODE != Mode::PLAIN) {
                    if (token >= m || !exists(i)) continue;
                    load_values(x2, ZQC_MODE == Mode::RMS_NORM ? 0 : token * x2_stride, column(i), aligned2, other);
                }
            }
#pragma unroll
            for (int k = 0; k < VECTOR; ++k) {
                if constexpr (ZQC_MODE == Mode::RMS_NORM) square += values[k] * values[k];
                if constexpr (ZQC_MODE == Mode::SILU_MUL) values[k] = values[k] / (1.f + __expf(-values[k]));
                if constexpr (ZQC_MODE != Mode::PLAIN) values[k] *= other[k];
                magnitude = fmaxf(magnitude, fabsf(values[k]));
            }
            if constexpr (ZQC_MODE == Mode::SILU_MUL) vector.set(values);
        }
        if constexpr (PACKED && ZQC_MODE == Mode::PLAIN) {
            float first, second;
            expand(halves, first, second);
            magnitude = fmaxf(first, second);
        }
#pragma unroll
        for (int step = 1; step < 4; step *= 2) {
            magnitude = fmaxf(magnitude, __shfl_xor_sync(~0u, magnitude, step));
            if constexpr (ZQC_MODE == Mode::RMS_NORM) square += __shfl_xor_sync(~0u, square, step);
        }
    }

    // Magnitudes and squares of whole tokens, from all warps of the group and blocks of the cluster. `tile` counts the tiles of this block.
    DEVICE_MEMBER void exchange(int tile) {
        if constexpr (CODED) {  // as below, what the last tile left in shared memory has been read
            if constexpr (CLUSTER > 1) {
                cluster_arrive();
                cluster_wait();
            } else {
                place.synchronize();
            }
            return;
        }
        const int turn = tile & 1;
        const u32 local = shared.local(turn, place.token());
        if (place.quarter() == 0) {
            store_shared_float(local + place.warp * 4, magnitude);
            if constexpr (ZQC_MODE == Mode::RMS_NORM) store_shared_float(local + LOCAL_BYTES + place.warp * 4, square);
        }
        place.synchronize();
        magnitude = square = 0.f;
#pragma unroll
        for (int warp = 0; warp < WARPS; warp += 4) {
            const float4 four = load_shared_floats(local + warp * 4);
            magnitude = fmaxf(magnitude, fmaxf(fmaxf(four.x, four.y), fmaxf(four.z, four.w)));
            if constexpr (ZQC_MODE == Mode::RMS_NORM) {
                const float4 squares = load_shared_floats(local + LOCAL_BYTES + warp * 4);
                square += (squares.x + squares.y) + (squares.z + squares.w);
            }
        }
        if constexpr (CLUSTER == 1) return;
        const u32 full = shared.extremes_full(turn), at = place.token() * 4;
        if (place.warp == 0) {
#pragma unroll
            for (int some = 0; some < CLUSTER; some += 4) {
                const int to = some + place.quarter();
                if (to >= CLUSTER) continue;
                Mail::send(to, shared.extremes(turn, share.rank) + at, magnitude, full);
                if constexpr (ZQC_MODE == Mode::RMS_NORM) Mail::send(to, shared.extremes(turn, share.rank) + EXTREMES_BYTES + at, square, full);
            }
        }
        barrier_wait(full, tile >> 1 & 1);
        if (place.warp == 0 && place.lane == 0) Mail::expect(full, EXTREMES * EXTREMES_BYTES);
        magnitude = square = 0.f;
#pragma unroll
        for (int from = 0; from < CLUSTER; ++from) {
            magnitude = fmaxf(magnitude, load_shared_float(shared.extremes(turn, from) + at));
            if constexpr (ZQC_MODE == Mode::RMS_NORM) square += load_shared_float(shared.extremes(turn, from) + EXTREMES_BYTES + at);
        }
    }

    // Codes of vector i.
    DEVICE_MEMBER void convert(int i, float divisor, float reciprocal, u32 (&codes)[2]) {
        if constexpr (CODED) {
            codes[0] = vectors[i].words[0], codes[1] = vectors[i].words[1];
            return;
        }
        float values[VECTOR];
        vectors[i].settle();
        vectors[i].get(values);
        if constexpr (ZQC_MODE == Mode::RMS_NORM) {
            float gamma[VECTOR];
            load_values(x2, 0, column(i), aligned2, gamma);
#pragma unroll
            for (int k = 0; k < VECTOR; ++k) values[k] *= gamma[k];
        }
        codes[0] = four_codes(values, divisor, reciprocal), codes[1] = four_codes(values + 4, divisor, reciprocal);
    }
};

// The inner values of the low-rank branches. Row g of the A operand, of mma.sync's 16, is rank 2 g of a slice, and row g + 8 rank 2 g + 1:
// so the lanes read their parts of V, as the package has it, without bank conflicts.
struct LowRank {
    const Place& place;
    Shared shared;
    Share share;
    u32 down_shared;  // V of the share
    const u8* down;
    void* inner;
    int m, m_pad;
    float sums[max_of(PASS, 1)][4];

    DEVICE_MEMBER int owned() const { return share.rank < SLICES ? (SLICES - 1 - share.rank) / CLUSTER + 1 : 0; }
    DEVICE_MEMBER void expect_mail(int turn) const { Mail::expect(shared.mail_full(turn), owned() * CLUSTER * SLICE_SUMS); }

    DEVICE_MEMBER void clear() {
#pragma unroll
        for (auto& slice : sums)
#pragma unroll
            for (float& sum : slice) sum = 0.f;
    }

    DEVICE_MEMBER uint2 load(u32 at) const {
        uint2 v;
        if constexpr (DOWN_STAYS)
            asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "r"(down_shared + at));
        else
            v = *reinterpret_cast<const uint2*>(down + at);
        return v;
    }

    // Adds V times the codes of vector i, for PASS slices from `slice` on.
    DEVICE_MEMBER void add(int slice, int i, const u32 (&codes)[2]) {
        u32 b[4];
        expand_codes(codes[0], b[0], b[1]);
        expand_codes(codes[1], b[2], b[3]);
        const int row = 2 * (place.lane / 4), part = (place.column() / 16 ^ (row & 7)) * 16 + place.column() % 16;
        const u32 at = place.warp / 4 * DOWN_ROW_BLOCK + (slice * INNER_RANKS + row) * K_BLOCK + part;
#pragma unroll
        for (int s = 0; s < PASS; ++s) {
            const u32 behind = i * STEP * DOWN_ROW_BLOCK + s * INNER_RANKS * K_BLOCK;
            const uint2 even = load(at + behind), odd = load((at ^ 16) + behind + K_BLOCK);
            u32 a[8];
            expand_codes(even.x, a[0], a[2]);
            expand_codes(odd.x, a[1], a[3]);
            expand_codes(even.y, a[4], a[6]);
            expand_codes(odd.y, a[5], a[7]);
            multiply(sums[s], a[0], a[1], a[2], a[3], b[0], b[1]);
            multiply(sums[s], a[4], a[5], a[6], a[7], b[2], b[3]);
        }
    }

    DEVICE_MEMBER void put() const {
#pragma unroll
        for (int s = 0; s < PASS; ++s)
            asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(shared.sums(s, place.warp) + place.lane * 16), "f"(sums[s][0]),
                         "f"(sums[s][1]), "f"(sums[s][2]), "f"(sums[s][3])
                         : "memory");
    }

    // Adds up what the warps of the group have put, for the blocks that own the slices.
    DEVICE_MEMBER void finish(int first_token, int slice, int tile) const {
        for (int s = place.warp; s < PASS; s += WARPS) {
            const float4 total = add_up<WARPS>(shared.sums(s, 0), SLICE_SUMS);
            const int of = slice + s, turn = tile & 1;
            if constexpr (CLUSTER == 1)
                store(total, first_token, of);
            else
                Mail::send(of % CLUSTER, shared.mail(turn, share.rank, of / CLUSTER) + place.lane * 16, total, shared.mail_full(turn));
        }
    }

    // What the blocks of the cluster have sent of a tile, for the slices that this one owns.
    DEVICE_MEMBER void collect(int first_token, int tile) const {
        if (owned() == 0) return;
        const int turn = tile & 1;
        for (int i = place.warp; i < owned(); i += WARPS) {
            barrier_wait(shared.mail_full(turn), tile >> 1 & 1);
            if (i == 0 && place.lane == 0) expect_mail(turn);
            store(add_up<CLUSTER>(shared.mail(turn, 0, i), OWNED_SLICES * SLICE_SUMS), first_token, i * CLUSTER + share.rank);
        }
    }

    template <int COUNT>
    DEVICE_MEMBER float4 add_up(u32 at, int stride) const {
        float4 total = make_float4(0.f, 0.f, 0.f, 0.f);
#pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            const float4 part = load_shared_floats(at + i * stride + place.lane * 16);
            total.x += part.x, total.y += part.y, total.z += part.z, total.w += part.w;
        }
        return total;
    }

    // Two ranks of two tokens.
    DEVICE_MEMBER void store(float4 total, int first_token, int slice) const {
        const u32 ranks[2] = {pack<Type::BF16>(total.x, total.z), pack<Type::BF16>(total.y, total.w)};
        const int pair = place.lane / 4;
#pragma unroll
        for (int t = 0; t < 2; ++t) {
            const int token = first_token + place.lane % 4 * 2 + t;
            u32* row = static_cast<u32*>(inner) + (static_cast<u64>(slice) * m_pad + token) * (INNER_RANKS / 2);
            if (token < m) row[(pair / 4 ^ (token >> 2 & 1)) * 4 + pair % 4] = ranks[t];
        }
    }
};

extern "C" __global__ void __launch_bounds__(THREADS, PER_SM) __cluster_dims__(CLUSTER, 1, 1)
    zqc_quantize(const void* x, const void* x2, u8* codes, float* token_scales, void* inner, const u8* down, int m, int m_pad,
                 long long x_stride, long long x2_stride, float eps) {
    extern __shared__ __align__(128) u8 dynamic[];
    const u32 base = shared_address(dynamic), down_full = base + DOWN_FULL_AT;
    const int all_warps = __shfl_sync(~0u, threadIdx.x / 32, 0);
    Place place{GROUPS == 1 ? 0 : all_warps / WARPS, all_warps % WARPS, static_cast<int>(threadIdx.x % 32)};
    const Shared shared{base + place.group * GROUP_BYTES};
    const Share share = Share::of(CLUSTER == 1 ? 0 : cluster_rank());
    const u8* const share_down = down + share.first * DOWN_ROW_BLOCK;
    LowRank low_rank{place, shared, share, base + DOWN_AT, share_down, inner, m, m_pad};

    if (place.warp == 0 && place.lane == 0) {
#pragma unroll
        for (int turn = 0; turn < 2 && CLUSTER > 1; ++turn) {
            Mail::init(shared.extremes_full(turn), 0);
            Mail::init(shared.mail_full(turn), 0);
            Mail::expect(shared.extremes_full(turn), EXTREMES * EXTREMES_BYTES);
            if constexpr (RANK > 0) low_rank.expect_mail(turn);
        }
        if (DOWN_STAYS && place.group == 0) barrier_init(down_full, 1);
        barrier_init_fence();
        if (DOWN_STAYS && place.group == 0) {
            barrier_expect(down_full, share.blocks * DOWN_ROW_BLOCK);
            copy_to_shared(base + DOWN_AT, share_down, share.blocks * DOWN_ROW_BLOCK, down_full);
        }
    }
    __syncthreads();
    if constexpr (CLUSTER > 1) cluster_arrive_relaxed();
    launch_dependents();
    wait_for_dependencies();

    Tokens tokens(place, shared, share, x, x2, x_stride, x2_stride, m);
    const int stride = static_cast<int>(gridDim.x) / CLUSTER * TOKENS;
    int first = static_cast<int>(blockIdx.x) / CLUSTER * TOKENS;  // of the block; both groups take as many tiles
    int tile = 0;
    for (; first < m; ++tile, first += stride) {
        place.settle();
        const int group_first = first + place.group * GROUP_TOKENS, token = group_first + place.token();
        if (tile == 0 || !tokens.aligned) tokens.read(token);
        if (CLUSTER > 1 && tile == 0) cluster_wait();  // every block of the cluster has begun
        tokens.measure(token);
        tokens.exchange(tile);
        if constexpr (CLUSTER > 1 && RANK > 0)
            if (tile > 0) low_rank.collect(group_first - stride, tile - 1);

        const float norm = ZQC_MODE == Mode::RMS_NORM ? rsqrtf(tokens.square / K + eps) : 1.f;
        const float scale = fmaxf(tokens.magnitude * norm / LARGEST, LEAST_SCALE), divisor = scale / norm, reciprocal = 1.f / divisor;
        if (!CODED && share.rank == 0 && place.warp == 0 && place.quarter() == 0 && token < m) token_scales[token] = scale;

        const int next = tokens.aligned ? token + stride : m;
        const bool is_written = GROUPS == 1 || group_first < m_pad;
        const int part = (place.column() / 16 ^ place.token()) * 16 + place.column() % 16;
        u8* to = codes + (static_cast<u64>(share.first + place.warp / 4) * m_pad + token) * K_BLOCK + part;
        u32 held[PASS < SLICES ? VECTORS : 1][2];
        if constexpr (DOWN_STAYS) barrier_wait(down_full, 0);
        low_rank.clear();
#pragma unroll
        for (int i = 0; i < VECTORS; ++i) {
            u32 now[2];
            tokens.convert(i, divisor, reciprocal, now);
            if (is_written && tokens.exists(i)) *reinterpret_cast<uint2*>(to) = make_uint2(now[0], now[1]);
            to += static_cast<u64>(STEP * K_BLOCK) * m_pad;
            if (RANK > 0 && tokens.exists(i)) low_rank.add(0, i, now);  // V ends where the share does
            if constexpr (PASS < SLICES)
                held[i][0] = now[0], held[i][1] = now[1];
            else
                tokens.read(i, next);
        }
        place.settle();
        for (int slice = PASS; slice < SLICES; slice += PASS) {
            low_rank.put();
            place.synchronize();
            low_rank.finish(group_first, slice - PASS, tile);
            low_rank.clear();
#pragma unroll
            for (int i = 0; i < VECTORS; ++i) {
                if (tokens.exists(i)) low_rank.add(slice, i, held[i]);
                if (slice + PASS == SLICES) tokens.read(i, next);
            }
            place.synchronize();
        }
        if constexpr (RANK > 0) {
            low_rank.put();
            place.synchronize();
            low_rank.finish(group_first, SLICES - PASS, tile);
        }
    }
    if constexpr (CLUSTER > 1 && RANK > 0)
        if (tile > 0) low_rank.collect(first - stride + place.group * GROUP_TOKENS, tile - 1);
}
