// The linear layer for few tokens, m <= ZQC_TOKENS: bound by reading the weights once.
//
// Cluster    ZQC_CLUSTER blocks split K between them; each cluster walks over panels of 128 rows (persistent).
// Block      2 warpgroups that multiply, one tile of 64 rows each, a warp that copies, 3 warps that finish; 2 blocks a multiprocessor,
//            3 for up to 16 tokens.
// Pipeline   a ring of stages, each one block of K for 128 rows (8.1 KiB of FP4), filled by bulk copies. The weights do not depend on
//            the kernel before this one, so the ring is filled first and waited for afterwards; then the tokens follow.
// Operands   W goes from the ring through registers (FP4 to E4M3 by table) into wgmma as A. The tokens are B, in shared memory,
//            where the block's share of K stays for all rows (RESIDENT) or, where it is too large, comes with each stage.
// Reduction  every block sends its sums to the block that owns the rows, 128 / ZQC_CLUSTER of them, where the finishing warps add them
//            in the order of the ranks, scale and store, while the next panel is multiplied: no atomics, no workspace, the same bits
//            every time.
// LoRC       is one more block of K per 32 ranks, in bf16.
// Shared     at most 113 KiB (75 KiB): tokens up to 48 KiB (32 KiB), sums up to 32 KiB, the ring what is left, at most 16 stages.
//
// ZQC_N, ZQC_K   features       ZQC_STEPS   groups of a row in a block of K     ZQC_RANK     padded rank, 0 without branch
// ZQC_TABLE      16 words       ZQC_OUTPUT  0 bf16, 1 f16, 2 f32                ZQC_TOKENS   8, 16, 32, 64
// ZQC_CLUSTER    1, 2, 4, 8
#include "wgmma.cuh"

constexpr int N = ZQC_N, TOKENS = ZQC_TOKENS, STEPS = ZQC_STEPS, SPLIT = ZQC_CLUSTER;
constexpr int SLICES = ZQC_RANK / INNER_RANKS, PARTS = TOKENS / 8;  // parts of 8 tokens
constexpr int PER_SM = TOKENS <= 16 ? 3 : 2;  // blocks of a multiprocessor
constexpr int MULTIPLIERS = 8, FINISHERS = 3;  // warps; between them, the warp that copies
constexpr int THREADS = 32 * (MULTIPLIERS + 1 + FINISHERS);
constexpr int PANELS = ceil_div(N, PANEL_ROWS);
constexpr int K_BLOCKS = ceil_div(ZQC_K, K_BLOCK), BLOCKS = K_BLOCKS + ceil_div(SLICES, 2);
constexpr int SHARE = ceil_div(BLOCKS, SPLIT);  // blocks of K that a rank has at most
constexpr int SEGMENT = 64;  // blocks of K that the tensor cores add up, with the 14 bits they keep, before f32 does
constexpr int TILE_BYTES = tile_bytes(STEPS), PANEL_BYTES = 2 * TILE_BYTES;
constexpr int TOKEN_BYTES = TOKENS * K_BLOCK;
constexpr int OWNED_WARPS = MULTIPLIERS / SPLIT;       // fragments of 16 rows that a rank owns
constexpr int OWNED = OWNED_WARPS * PARTS * 32;        // float4s of their sums

constexpr int BUDGET = (SHARED_LIMIT + 1024) / PER_SM - 1024;
constexpr bool RESIDENT = SHARE * TOKEN_BYTES <= 96 * 1024 / PER_SM;
constexpr int RESIDENT_BYTES = RESIDENT ? SHARE * TOKEN_BYTES : 0;
constexpr int SUM_BYTES = SPLIT * OWNED * 16;
constexpr int WEIGHTS_AT = RESIDENT ? 0 : TOKEN_BYTES;  // in a stage: its tokens come first, aligned for the swizzle
constexpr int STAGE_BYTES = RESIDENT ? PANEL_BYTES : ceil_div(TOKEN_BYTES + PANEL_BYTES, 1024) * 1024;
constexpr int STAGES = min_of(16, (BUDGET - 2048 - RESIDENT_BYTES - SUM_BYTES) / STAGE_BYTES);
constexpr int SUM_AT = RESIDENT_BYTES, RING_AT = SUM_AT + SUM_BYTES, TABLE_AT = RING_AT + STAGES * STAGE_BYTES;
constexpr int BARRIERS_AT = TABLE_AT + TABLE_BYTES, SHARED_BYTES = BARRIERS_AT + 8 * (2 * STAGES + 2) + 1024;
static_assert(STAGES >= 2, "the ring does not fit");

extern "C" __device__ const u32 zqc_launch[5] = {THREADS, SHARED_BYTES, SPLIT, PANEL_ROWS, TOKENS};
__device__ const u64 TABLE[16] = {ZQC_TABLE};

// Where things lie in the shared memory of this block.
struct Shared {
    u32 base;
    DEVICE_MEMBER u32 resident(int block) const { return base + block * TOKEN_BYTES; }
    DEVICE_MEMBER u32 sums() const { return base + SUM_AT; }
    DEVICE_MEMBER u32 stage(int i) const { return base + RING_AT + i * STAGE_BYTES; }
    DEVICE_MEMBER u32 table() const { return base + TABLE_AT; }
    DEVICE_MEMBER u32 full(int i) const { return base + BARRIERS_AT + 8 * i; }
    DEVICE_MEMBER u32 empty(int i) const { return full(STAGES + i); }
    DEVICE_MEMBER u32 sums_full() const { return full(2 * STAGES); }
    DEVICE_MEMBER u32 sums_free() const { return full(2 * STAGES + 1); }
};

// A rank's share: the panels `panel`, `panel + apart`, ..., of which there are `panels`, and the blocks `first` to `last` of K.
struct Work {
    int rank, panel, apart, panels, first, last;
};

// A position in the ring.
struct Slot {
    int stage = 0;
    u32 parity = 0;
    DEVICE_MEMBER void advance() {
        if (++stage == STAGES) {
            stage = 0;
            parity ^= 1;
        }
    }
};

// Copies what the multipliers need, in their order; one thread.
struct Producer {
    Shared shared;
    Work work;
    const u8* weights;
    const u8* codes;
    const u8* inner;
    int m_pad, tokens;
    // The next step.
    int item = 0, block;
    const u8* from;
    Slot slot{};

    DEVICE_MEMBER Producer(Shared shared, Work work, const u8* weights, const u8* codes, const void* inner, int m_pad)
        : shared(shared), work(work), weights(weights), codes(codes), inner(static_cast<const u8*>(inner)), m_pad(m_pad),
          tokens(min(TOKENS, m_pad)), block(work.first), from(panel()) {}

    DEVICE_MEMBER const u8* panel() const {
        return weights + (static_cast<u64>(work.first) * PANELS + work.panel + item * work.apart) * PANEL_BYTES;
    }
    DEVICE_MEMBER bool done() const { return item >= work.panels || work.first == work.last; }
    DEVICE_MEMBER bool needs_tokens() const { return !RESIDENT || item == 0; }
    DEVICE_MEMBER int slices() const { return min(2, SLICES - 2 * (block - K_BLOCKS)); }

    DEVICE_MEMBER void advance() {
        slot.advance();
        from += PANELS * PANEL_BYTES;
        if (++block == work.last) {
            block = work.first;
            ++item;
            from = panel();
        }
    }

    DEVICE_MEMBER void copy_weights() const {
        const int token_bytes = tokens * (block < K_BLOCKS ? K_BLOCK : INNER_BYTES * slices());
        barrier_expect(shared.full(slot.stage), PANEL_BYTES + (needs_tokens() ? token_bytes : 0));
        copy_to_shared(shared.stage(slot.stage) + WEIGHTS_AT, from, PANEL_BYTES, shared.full(slot.stage));
    }

    DEVICE_MEMBER void copy_tokens() const {
        if (!needs_tokens()) return;
        const u32 to = RESIDENT ? shared.resident(block - work.first) : shared.stage(slot.stage), full = shared.full(slot.stage);
        if (block < K_BLOCKS) {
            copy_to_shared(to, codes + static_cast<u64>(block) * m_pad * K_BLOCK, tokens * K_BLOCK, full);
            return;
        }
        const u64 slice = 2 * (block - K_BLOCKS);
        for (int i = 0; i < slices(); ++i)
            copy_to_shared(to + i * TOKENS * INNER_BYTES, inner + (slice + i) * m_pad * INNER_BYTES, tokens * INNER_BYTES, full);
    }

    // Fills the ring with weights.
    DEVICE_MEMBER void prefetch() const {
        Producer ahead = *this;
        for (int i = 0; i < STAGES && !ahead.done(); ++i, ahead.advance()) ahead.copy_weights();
    }

    DEVICE_MEMBER void run() {
        for (int i = 0; i < STAGES && !done(); ++i, advance()) copy_tokens();
        for (; !done(); advance()) {
            barrier_wait(shared.empty(slot.stage), slot.parity ^ 1);
            copy_weights();
            copy_tokens();
        }
    }
};

// The sums of a warpgroup over the rank's share of K.
struct Multiplier {
    Shared shared;
    Work work;
    int lane;
    u32 thread_at;  // of this thread's codes, from the start of the stage
    u32 steps_at;   // of its steps
    Slot slot{};

    DEVICE_MEMBER Multiplier(Shared shared, Work work, int warp, int lane) : shared(shared), work(work), lane(lane) {
        const u32 tile = WEIGHTS_AT + warp / 4 * TILE_BYTES;
        thread_at = tile + (warp % 4 * 32 + lane) * 16;
        steps_at = tile + CODE_BYTES + (warp % 4 * 8 + lane / 4) * STEPS;
    }

    DEVICE_MEMBER u32 tokens(int block) const {
        return RESIDENT ? shared.resident(block - work.first) : shared.stage(slot.stage);
    }

    DEVICE_MEMBER void release(int stage) const {
        __syncwarp();
        if (lane == 0) barrier_arrive(shared.empty(stage));
    }

    // One block of K. The multiplications of a quarter run while the next quarter is decoded into other registers.
    DEVICE_MEMBER void multiply(int block, u32 (&a)[16], float (&sums)[TOKENS / 2]) {
        barrier_wait(shared.full(slot.stage), slot.parity);
        const u32 stage = shared.stage(slot.stage);
        Codes<STEPS> codes;
        codes.load(stage + thread_at, stage + steps_at, shared.table());
        const u64 b = descriptor<Swizzle::Bytes128>(tokens(block));
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            wgmma_wait<3>();
            codes.decode_part(j, shared.table(), a + 4 * j);
            wgmma_fence();
            Wgmma<TOKENS>::e4m3(sums, a + 4 * j, b + 2 * j, 1);
            wgmma_commit();
        }
        // By now the codes have been used. A release right behind their load lets the copy engine overtake it.
        if (RESIDENT)
            release(slot.stage);
        else if (block > work.first)
            release(slot.stage == 0 ? STAGES - 1 : slot.stage - 1);
        slot.advance();
    }

    // The part of a block of the low-rank branch.
    DEVICE_MEMBER void multiply_low_rank(int block, float (&sums)[TOKENS / 2]) {
        barrier_wait(shared.full(slot.stage), slot.parity);
        const u32 at = shared.stage(slot.stage) + thread_at;
        const uint4 low = load_shared_16(at), high = load_shared_16(at + CODE_BYTES / 2);
        const u32 a[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
        const u64 b = descriptor<Swizzle::Bytes32>(tokens(block));
        const u64 next = descriptor<Swizzle::Bytes32>(tokens(block) + TOKENS * INNER_BYTES);
        wgmma_fence();
        Wgmma<TOKENS>::bf16(sums, a, b, 1);
        if (SLICES - 2 * (block - K_BLOCKS) > 1) Wgmma<TOKENS>::bf16(sums, a + 4, next, 1);
        wgmma_commit();
        wgmma_wait<0>();
        release(slot.stage);
        slot.advance();
    }

    DEVICE_MEMBER void run(float (&sums)[TOKENS / 2]) {
        u32 a[16];
        const int last = min(work.last, K_BLOCKS);
#pragma unroll
        for (int i = 0; i < TOKENS / 2; ++i) sums[i] = 0.f;
        if (SHARE <= SEGMENT) {
#pragma unroll 1
            for (int block = work.first; block < last; ++block) multiply(block, a, sums);
            wgmma_wait<0>();
        } else {
            for (int first = work.first; first < last; first += SEGMENT) {
                float part[TOKENS / 2];
#pragma unroll
                for (int i = 0; i < TOKENS / 2; ++i) part[i] = 0.f;
#pragma unroll 1
                for (int block = first; block < min(last, first + SEGMENT); ++block) multiply(block, a, part);
                wgmma_wait<0>();
#pragma unroll
                for (int i = 0; i < TOKENS / 2; ++i) sums[i] += part[i];
            }
        }
        if (!RESIDENT && last > work.first) release(slot.stage == 0 ? STAGES - 1 : slot.stage - 1);
#pragma unroll 1
        for (int block = max(work.first, K_BLOCKS); block < work.last; ++block) multiply_low_rank(block, sums);
    }

    // Sends the sums of this warp's 16 rows to the rank that owns them.
    DEVICE_MEMBER void send_sums(int warp, const float (&sums)[TOKENS / 2]) const {
        const u32 owner = warp / OWNED_WARPS, full = map_to_rank(shared.sums_full(), owner);
        const int at = (work.rank * OWNED_WARPS + warp % OWNED_WARPS) * PARTS * 32 + lane;
        const u32 to = map_to_rank(shared.sums() + at * 16, owner);
#pragma unroll
        for (int j = 0; j < PARTS; ++j) send(to + j * 512, sums[4 * j], sums[4 * j + 1], sums[4 * j + 2], sums[4 * j + 3], full);
    }
};

// Adds up what the ranks sent, scales it and stores it; what lies outside the layer is dropped.
struct Finisher {
    Shared shared;
    Work work;
    const float* row_scales;
    const float* bias;
    const float* token_scales;
    void* y;
    long long y_stride;
    int m, thread;

    DEVICE_MEMBER void run(int item) const {
        if (thread == 0) barrier_expect(shared.sums_full(), SUM_BYTES);
        barrier_wait(shared.sums_full(), item & 1);
        const int panel_row = (work.panel + item * work.apart) * PANEL_ROWS;
        for (int i = thread; i < OWNED; i += 32 * FINISHERS) {
            // Four sums of a lane: rows `row` and `row + 8`, tokens `token` and `token + 1`.
            const int fragment = work.rank * OWNED_WARPS + i / (PARTS * 32);
            const int row = panel_row + fragment * 16 + i % 32 / 4, token = i / 32 % PARTS * 8 + i % 4 * 2;
            if (token >= m) continue;
            float4 sum = load_shared_floats(shared.sums() + i * 16);
#pragma unroll
            for (int from = 1; from < SPLIT; ++from) {
                const float4 part = load_shared_floats(shared.sums() + (from * OWNED + i) * 16);
                sum.x += part.x, sum.y += part.y, sum.z += part.z, sum.w += part.w;
            }
            store_pair(row, token, sum.x, sum.y);
            store_pair(row + 8, token, sum.z, sum.w);
        }
        __syncwarp();
        if (item + 1 < work.panels && thread % 32 < SPLIT) barrier_arrive_remote(shared.sums_free(), thread % 32);
    }

    DEVICE_MEMBER void store_pair(int row, int token, float first, float second) const {
        if (row >= N) return;
        const float scale = row_scales[row], shift = bias ? bias[row] : 0.f;
        store<ZQC_OUTPUT>(y, token * y_stride + row, first * (scale * token_scales[token]) + shift);
        if (token + 1 < m) store<ZQC_OUTPUT>(y, (token + 1) * y_stride + row, second * (scale * token_scales[token + 1]) + shift);
    }
};

extern "C" __global__ void __launch_bounds__(THREADS, PER_SM) __cluster_dims__(SPLIT, 1, 1)
    zqc_linear(const u8* weights, const float* row_scales, const float* bias, const u8* codes, const float* token_scales,
               const void* inner, void* y, long long y_stride, int m, int m_pad) {
    extern __shared__ u8 dynamic[];
    const Shared shared{(shared_address(dynamic) + 1023) / 1024 * 1024};
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, rank = blockIdx.x % SPLIT;
    const int cluster = blockIdx.x / SPLIT, clusters = gridDim.x / SPLIT;
    const Work work{rank, cluster, clusters, cluster < PANELS ? (PANELS - 1 - cluster) / clusters + 1 : 0, rank * BLOCKS / SPLIT,
                    (rank + 1) * BLOCKS / SPLIT};
    Producer producer(shared, work, weights, codes, inner, m_pad);

    if (threadIdx.x == 32 * MULTIPLIERS) {
        for (int i = 0; i < STAGES; ++i) {
            barrier_init(shared.full(i), 1);
            barrier_init(shared.empty(i), MULTIPLIERS);
        }
        barrier_init(shared.sums_full(), 1);
        barrier_init(shared.sums_free(), FINISHERS * SPLIT);
        barrier_init_fence();
        producer.prefetch();
    }
    if (threadIdx.x < 16) {
        const u32 entry = shared.table() + threadIdx.x * 8;
        asm volatile("st.shared.b64 [%0], %1;" ::"r"(entry), "l"(TABLE[threadIdx.x]) : "memory");
    }
    __syncthreads();
    cluster_arrive_relaxed();
    launch_dependents();

    if (warp < MULTIPLIERS) {
        cluster_wait();
        Multiplier multiplier(shared, work, warp, lane);
        for (int item = 0; item < work.panels; ++item) {
            float sums[TOKENS / 2];
            multiplier.run(sums);
            if (item > 0) barrier_wait(shared.sums_free(), (item - 1) & 1);
            multiplier.send_sums(warp, sums);
        }
    } else if (warp == MULTIPLIERS) {
        if (lane == 0) {
            wait_for_dependencies();
            producer.run();
        }
        __syncwarp();
        cluster_wait();
    } else {
        cluster_wait();
        wait_for_dependencies();  // before the token scales are read and the outputs written
        const Finisher finisher{shared, work, row_scales, bias, token_scales, y, y_stride, m,
                                static_cast<int>(threadIdx.x) - 32 * (MULTIPLIERS + 1)};
        for (int item = 0; item < work.panels; ++item) finisher.run(item);
    }
}
