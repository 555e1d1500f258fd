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
#include "quantize_many_tokens.cuh"

extern "C" __device__ const u32 zqc_launch[5] = {THREADS, SHARED_BYTES, CLUSTER, 1, TOKENS};

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
