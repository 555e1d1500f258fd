// The linear layer for few tokens: bound by reading the weights once, or by having fewer tiles than multiprocessors.
//
// Cluster    ZQC_CLUSTER blocks split K between them; each cluster walks over panels of 128 rows (persistent), and over the tiles of
//            ZQC_TOKENS tokens where these are 64 or more; below, m is at most ZQC_TOKENS.
// Block      2 warpgroups of the mainloop, one tile of 64 rows each, a warp of the producer, 3 of the epilogue (or 7, where there is room
//            for them); ZQC_PER_SM blocks a multiprocessor.
// Pipeline   a ring of stages, each one block of K for 128 rows (8.1 KiB of FP4), filled by bulk copies. The weights do not depend on
//            the kernel before this one, so the ring is filled first and waited for afterwards; then the tokens follow.
// Operands   W goes from the ring through registers (FP4 to E4M3 by table) into wgmma as A. The tokens are B, in shared memory,
//            where the block's share of K stays for all rows (RESIDENT) or, where it is too large or not the only tile, comes with
//            each stage.
// Reduction  every block sends its sums, as f16 times a power of two, to the block that owns the rows, about 128 / ZQC_CLUSTER of them, where
//            the warps of the epilogue add them in f32 in the order of the ranks, scale and store, while the next panel is multiplied:
//            no atomics, no workspace, the same bits every time.
// LoRC       is one more partial sum, which the epilogue computes by mma.sync while the mainloop runs.
// Shared     227, 113 or 75 KiB by ZQC_PER_SM: tokens up to 96, 48 or 32 KiB, sums up to 96 KiB, the ring what is left, at most 24 stages.
//
// ZQC_N, ZQC_K   features       ZQC_STEPS   groups of a row in a block of K     ZQC_RANK     padded rank, 0 without branch
// ZQC_TABLE      16 words       ZQC_OUTPUT  0 bf16, 1 f16, 2 f32                ZQC_TOKENS   8, 16, 32, 64, 96, 128
// ZQC_CLUSTER    1 to 8           ZQC_PER_SM  1, 2, 3       ZQC_ACCURATE  0, 1
#include "linear_decode_layout.cuh"

extern "C" __device__ const u32 zqc_launch[5] = {THREADS, SHARED_BYTES, SPLIT, PANEL_ROWS, TOKENS};
__device__ const u64 TABLE[16] = {ZQC_TABLE};

// Copies what the mainloop needs, in their order: a tile's blocks, tile after tile. One warp.
struct Producer {
    Shared shared;
    Work work;
    const u8* weights;
    const u8* codes;
    int m_pad;

    DEVICE_MEMBER int tokens(Tile tile) const { return min(TOKENS, m_pad - tile.token); }

    DEVICE_MEMBER void copy_weights(int index, Tile tile, int block, int stage) const {
        barrier_expect(shared.full(stage), PANEL_BYTES + (!RESIDENT || index == 0 ? tokens(tile) * K_BLOCK : 0));
        copy_to_shared(shared.stage(stage) + WEIGHTS_AT, weights + (static_cast<u64>(block) * PANELS + tile.panel) * PANEL_BYTES,
                       PANEL_BYTES, shared.full(stage));
    }

    DEVICE_MEMBER void copy_tokens(int index, Tile tile, int block, int stage) const {
        if (RESIDENT && index > 0) return;
        copy_to_shared(RESIDENT ? shared.resident(block - work.first) : shared.stage(stage),
                       codes + (static_cast<u64>(block) * m_pad + tile.token) * K_BLOCK, tokens(tile) * K_BLOCK, shared.full(stage));
    }

    // The first round of the ring, a stage a lane.
    DEVICE_MEMBER void prefetch(int lane) const {
        const int blocks = work.last - work.first;
        if (lane < min(STAGES, work.tiles * blocks))
            copy_weights(lane / blocks, work.tile(lane / blocks), work.first + lane % blocks, lane);
    }

    DEVICE_MEMBER void prefetch_tokens(int lane) const {
        const int blocks = work.last - work.first;
        if (lane < min(STAGES, work.tiles * blocks))
            copy_tokens(lane / blocks, work.tile(lane / blocks), work.first + lane % blocks, lane);
    }

    // The other rounds, by one thread.
    DEVICE_MEMBER void run() const {
        Slot slot;
        int step = 0;
        for (int index = 0; index < work.tiles; ++index) {
            const Tile tile = work.tile(index);
            for (int block = work.first; block < work.last; ++block, ++step, slot.advance()) {
                if (step < STAGES) continue;
                barrier_wait(shared.empty(slot.stage), slot.parity ^ 1);
                copy_weights(index, tile, block, slot.stage);
                copy_tokens(index, tile, block, slot.stage);
            }
        }
    }
};

// Multiplies: the sums of a warpgroup over the rank's share of K.
struct Mainloop {
    Shared shared;
    Work work;
    int lane;
    u32 thread_at;  // of this thread's codes, from the start of the stage
    u32 steps_at;   // of its steps
    Slot slot{};

    DEVICE_MEMBER Mainloop(Shared shared, Work work, int warp, int lane) : shared(shared), work(work), lane(lane) {
        const u32 tile = WEIGHTS_AT + warp / 4 * TILE_BYTES;
        thread_at = tile + (warp % 4 * 32 + lane) * 16;
        steps_at = tile + CODE_BYTES + (warp % 4 * 8 + lane / 4) * STEPS;
    }

    DEVICE_MEMBER u32 tokens(int block) const {
        return RESIDENT ? shared.resident(block - work.first) : shared.stage(slot.stage);
    }

    DEVICE_MEMBER void release(int stage) const { barrier_arrive_warp(shared.empty(stage), lane); }

    // One block of K. The multiplications of a quarter run while the next quarter is decoded into other registers. The first block
    // replaces what `sums` holds.
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
            Wgmma<TOKENS>::e4m3(sums, a + 4 * j, b + 2 * j, j > 0 || block > work.first);
            wgmma_commit();
        }
        // By now the codes have been used. A release right behind their load lets the TMA overtake it.
        if constexpr (RESIDENT)
            release(slot.stage);
        else if (block > work.first)
            release(slot.stage == 0 ? STAGES - 1 : slot.stage - 1);
        slot.advance();
    }

    // The sums of the next tile.
    DEVICE_MEMBER void run(float (&sums)[TOKENS / 2]) {
        u32 a[16];
        if constexpr (SHARE <= SEGMENT) {
#pragma unroll 1
            for (int block = work.first; block < work.last; ++block) multiply(block, a, sums);
            wgmma_wait<0>();
        } else {
#pragma unroll
            for (int i = 0; i < TOKENS / 2; ++i) sums[i] = 0.f;
            for (int first = work.first; first < work.last; first += SEGMENT) {
                float part[TOKENS / 2];
#pragma unroll
                for (int i = 0; i < TOKENS / 2; ++i) part[i] = 0.f;
#pragma unroll 1
                for (int block = first; block < min(work.last, first + SEGMENT); ++block) multiply(block, a, part);
                wgmma_wait<0>();
#pragma unroll
                for (int i = 0; i < TOKENS / 2; ++i) sums[i] += part[i];
            }
        }
        if (!RESIDENT && work.first < work.last) release(slot.stage == 0 ? STAGES - 1 : slot.stage - 1);
    }

    // Sends the sums of this warp's 16 rows to the rank that owns them.
    DEVICE_MEMBER void send_sums(int warp, const float (&sums)[TOKENS / 2]) const {
        const int to = owner(warp), at = (work.rank * OWNED_WARPS + warp - first_owned(to)) * PARTS * 32 + lane;
        constexpr float down = 1.f / (1ll << SUM_SHIFT);
        const auto pair = [&](int i) { return work.first < work.last ? pack<Type::F16>(sums[i] * down, sums[i + 1] * down) : 0; };
#pragma unroll
        for (int j = 0; j < PARTS; ++j)
            Sums::send(to, shared.sums() + at * 8 + j * 256, make_uint2(pair(4 * j), pair(4 * j + 2)), shared.sums_full());
        Sums::sent(shared.sums_full());
    }
};

// Adds up what the ranks sent and the low-rank branch, scales it and stores it; what lies outside the layer is dropped.
struct Epilogue {
    Shared shared;
    Work work;
    const u8* weights;
    const float* row_scales;
    const float* bias;
    const float* token_scales;
    const u8* inner;
    void* y;
    long long y_stride;
    int m, m_pad, thread;

    DEVICE_MEMBER int first_row(Tile tile) const { return tile.panel * PANEL_ROWS + first_owned(work.rank) * 16; }

    DEVICE_MEMBER void put_scale(int at, float value) const {
        store_shared_float(shared.scales() + at * 4, value);
    }

    // Scales and biases of the rank's rows to shared memory.
    DEVICE_MEMBER void fetch_row_scales(Tile tile) const {
        for (int i = thread; i < work.owned() * 16; i += EPILOGUE_THREADS) {
            put_scale(i, row_scales[first_row(tile) + i]);
            put_scale(OWNED_ROWS + i, bias ? bias[first_row(tile) + i] : 0.f);
        }
    }

    DEVICE_MEMBER void fetch_token_scales(Tile tile) const {
        for (int i = thread; i < TOKENS; i += EPILOGUE_THREADS)
            put_scale(2 * OWNED_ROWS + i, tile.token + i < m ? token_scales[tile.token + i] : 0.f);
    }

    DEVICE_MEMBER float scale(int at) const {
        return load_shared_float(shared.scales() + at * 4);
    }

    DEVICE_MEMBER static void synchronize() { asm volatile("bar.sync 1, %0;" ::"n"(EPILOGUE_THREADS) : "memory"); }

    DEVICE_MEMBER int warp() const { return thread / 32; }
    DEVICE_MEMBER int lane() const { return thread % 32; }

    // Of `fragment` of the rank's rows, this lane's 16 bytes of U for 16 ranks.
    DEVICE_MEMBER const u8* up(int panel, int fragment, int slice) const {
        const int at = first_owned(work.rank) + fragment;
        return weights + (static_cast<u64>(BLOCKS + slice / 2) * PANELS + panel) * PANEL_BYTES + at / 4 * TILE_BYTES + slice % 2 * 2048 +
               (at % 4 * 32 + lane()) * 16;
    }

    DEVICE_MEMBER void prefetch_up(int panel) const {
        for (int fragment = warp(); fragment < work.owned(); fragment += EPILOGUE_WARPS)
            for (int slice = 0; slice < SLICES; ++slice)
                asm volatile("prefetch.global.L2 [%0];" ::"l"(up(panel, fragment, slice)));
    }

    // The low-rank branch to shared memory, behind the sums of the ranks: U of 16 rows by the inner values of 8 tokens at a time.
    DEVICE_MEMBER void low_rank(Tile tile) const {
        for (int i = warp(); i < work.owned() * PARTS; i += EPILOGUE_WARPS) {
            const int token = tile.token + i % PARTS * 8 + lane() / 4, swap = token >> 2 & 1;
            const u8* row = inner + token * INNER_BYTES + lane() % 4 * 4;
            float4 d = make_float4(0.f, 0.f, 0.f, 0.f);
#pragma unroll
            for (int slice = 0; slice < SLICES; ++slice) {
                const uint4 a = *reinterpret_cast<const uint4*>(up(tile.panel, i / PARTS, slice));
                const u8* at = row + static_cast<u64>(slice) * m_pad * INNER_BYTES;
                const u32 b0 = token < m ? *reinterpret_cast<const u32*>(at + swap * 16) : 0;
                const u32 b1 = token < m ? *reinterpret_cast<const u32*>(at + (1 - swap) * 16) : 0;
                asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                    : "+f"(d.x), "+f"(d.y), "+f"(d.z), "+f"(d.w)
                    : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b0), "r"(b1));
            }
            asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(shared.sums() + SUM_BYTES + (i * 32 + lane()) * 16), "f"(d.x),
                         "f"(d.y), "f"(d.z), "f"(d.w)
                         : "memory");
        }
    }

    // What does not need the kernel before this one.
    DEVICE_MEMBER void prepare() const {
        if (work.tiles == 0) return;
        if (thread == 0) Sums::expect(shared.sums_full(), SPLIT * work.owned() * PARTS * 256);
        fetch_row_scales(work.tile(0));
        prefetch_up(work.tile(0).panel);
    }

    DEVICE_MEMBER void run(int index) const {
        const Tile tile = work.tile(index);
        if (index > 0) {
            if (thread == 0) Sums::expect(shared.sums_full(), SPLIT * work.owned() * PARTS * 256);
            fetch_row_scales(tile);
        }
        if (TILED || index == 0) fetch_token_scales(tile);
        if constexpr (SLICES > 0) low_rank(tile);
        synchronize();
        barrier_wait(shared.sums_full(), index & 1);
        for (int i = thread; i < work.owned() * PARTS * 32; i += EPILOGUE_THREADS) {
            // Four sums of a lane: rows `row` and `row + 8`, tokens `token` and `token + 1`.
            const int row = i / (PARTS * 32) * 16 + i % 32 / 4, token = i / 32 % PARTS * 8 + i % 4 * 2;
            if (tile.token + token >= m) continue;
            float4 sum = make_float4(0.f, 0.f, 0.f, 0.f);
#pragma unroll
            for (int from = 0; from < SPLIT; ++from) {
                const uint2 part = load_shared_8(shared.sums() + (from * OWNED + i) * 8);
                sum.x += widen<Type::F16>(part.x), sum.y += widen<Type::F16>(part.x >> 16);
                sum.z += widen<Type::F16>(part.y), sum.w += widen<Type::F16>(part.y >> 16);
            }
            constexpr float up = 1ll << SUM_SHIFT;
            sum.x *= up, sum.y *= up, sum.z *= up, sum.w *= up;
            if constexpr (SLICES > 0) {
                const float4 branch = load_shared_floats(shared.sums() + SUM_BYTES + i * 16);
                sum.x += branch.x, sum.y += branch.y, sum.z += branch.z, sum.w += branch.w;
            }
            store_pair(tile, row, token, sum.x, sum.y);
            store_pair(tile, row + 8, token, sum.z, sum.w);
        }
        if (index + 1 == work.tiles) return;
        synchronize();  // before the scales are replaced
        if (thread % 32 < SPLIT) barrier_arrive_remote(shared.sums_free(), thread % 32);
    }

    DEVICE_MEMBER void store_pair(Tile tile, int row, int token, float first, float second) const {
        const int at_row = first_row(tile) + row, at_token = tile.token + token;
        if (at_row >= N) return;
        const float row_scale = scale(row), shift = scale(OWNED_ROWS + row);
        const long long at = at_token * y_stride + at_row;
        store<ZQC_OUTPUT>(y, at, first * (row_scale * scale(2 * OWNED_ROWS + token)) + shift);
        if (at_token + 1 < m) store<ZQC_OUTPUT>(y, at + y_stride, second * (row_scale * scale(2 * OWNED_ROWS + token + 1)) + shift);
    }
};

extern "C" __global__ void __launch_bounds__(THREADS, PER_SM) __cluster_dims__(SPLIT, 1, 1)
    zqc_linear(const u8* weights, const float* row_scales, const float* bias, const u8* codes, const float* token_scales,
               const void* inner, void* y, long long y_stride, int m, int m_pad) {
    extern __shared__ u8 dynamic[];
    const Shared shared{(shared_address(dynamic) + 1023) / 1024 * 1024};
    const int warp = warp_index(), lane = threadIdx.x % 32;
    const Work work(m);
    const Producer producer{shared, work, weights, codes, m_pad};

    if (warp == MAINLOOP_WARPS) {
        if (lane < STAGES) {
            barrier_init(shared.full(lane), 1);
            barrier_init(shared.empty(lane), MAINLOOP_WARPS);
        }
        if (lane == 31) {
            Sums::init(shared.sums_full(), 32 * MAINLOOP_WARPS);
            barrier_init(shared.sums_free(), EPILOGUE_WARPS * SPLIT);
        }
        barrier_init_fence();
        __syncwarp();
        producer.prefetch(lane);
    }
    if (warp == MAINLOOP_WARPS + 1 && lane < 16)
        asm volatile("st.shared.b64 [%0], %1;" ::"r"(shared.table() + lane * 8), "l"(TABLE[lane]) : "memory");
    __syncthreads();
    cluster_arrive_relaxed();
    launch_dependents();

    if (warp < MAINLOOP_WARPS) {
        Mainloop mainloop(shared, work, warp, lane);
        for (int index = 0; index < work.tiles; ++index) {
            float sums[TOKENS / 2];
            mainloop.run(sums);
            if (index == 0)
                cluster_wait();
            else
                barrier_wait(shared.sums_free(), (index - 1) & 1);
            mainloop.send_sums(warp, sums);
        }
    } else if (warp == MAINLOOP_WARPS) {
        wait_for_dependencies();
        producer.prefetch_tokens(lane);
        if (lane == 0) producer.run();
        __syncwarp();
        cluster_wait();
    } else {
        const Epilogue epilogue{shared, work, weights, row_scales, bias, token_scales, static_cast<const u8*>(inner), y, y_stride,
                                m, m_pad, static_cast<int>(threadIdx.x) - 32 * (MAINLOOP_WARPS + 1)};
        epilogue.prepare();
        cluster_wait();
        wait_for_dependencies();  // before what it wrote is read and the outputs are written
        for (int index = 0; index < work.tiles; ++index) epilogue.run(index);
    }
}
