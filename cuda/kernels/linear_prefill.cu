// The linear layer for many tokens: bound by the tensor cores.
//
// Tile       128 rows of W times ZQC_TOKENS tokens times 128 of K; W is A of wgmma, the tokens are B.
// Cluster    ZQC_CLUSTER blocks with the same tokens and neighbouring rows; each fetches its part of the tokens for all of them.
// Block      persistent: 2 warpgroups with 64 rows each (232 registers, of which ZQC_TOKENS / 2 accumulators), 1 that copies (40 registers).
// Pipeline   a ring of stages of 8.1 KiB of FP4 and ZQC_TOKENS * 128 bytes of E4M3 (5 stages of 41 KiB for 256 tokens), filled by
//            bulk copies. A warpgroup decodes 32 columns at a time while up to three wgmmas before them run.
// LoRC       is one more block of K per 32 ranks, in bf16, into the same accumulators, before the others: behind them it would be waited for.
// Epilogue   scales of rows and tokens, bias; 16-bit outputs are transposed through 8 KiB a warpgroup into rows of 128 bytes, which the
//            Tensor Memory Accelerator (TMA) stores, 32 tokens at a time.
// Order      in strips of at most 2048 tokens, which stay in L2 while the weights pass; within a strip, tokens fastest. With tiles
//            of 256, up to 128 tokens at the end are tiles of their own, and a last wave that would leave more than half of the clusters
//            idle is cut into halves.
// Long K     beyond 16384, the accumulators are added up in f32 every 8192 columns, and where ZQC_ACCURATE says so every 1024; that takes
//            registers, so at most 128 tokens.
//
// ZQC_N, ZQC_K   features       ZQC_STEPS   groups of a row in a block of K     ZQC_RANK     padded rank, 0 without branch
// ZQC_TABLE      16 words       ZQC_OUTPUT  0 bf16, 1 f16, 2 f32                ZQC_TOKENS   64, 96, 128, 160, 192, 224, 256
// ZQC_CLUSTER    1, 2, 4          ZQC_ACCURATE  0, 1
#include "linear_prefill_layout.cuh"

extern "C" __device__ const u32 zqc_launch[5] = {THREADS, SHARED_BYTES, CLUSTER, PANEL_ROWS * CLUSTER, TOKENS};
__device__ const u64 TABLE[16] = {ZQC_TABLE};

// Copies what the consumers need, in their order.
struct Producer {
    Shared shared;
    int rank;
    const u8* weights;
    const u8* codes;
    const u8* inner;
    int m_pad;
    // Of the tile in hand: the panel, the first token of this rank's part, and the tokens of part and tile.
    const u8* panel{};
    int part{}, part_tokens{}, tokens{};

    DEVICE_MEMBER void begin(Tile tile) {
        const int before = CLUSTER == 1 ? 0 : rank * PART;
        panel = weights + static_cast<u64>(min(tile.group * CLUSTER + rank, PANELS - 1)) * PANEL_BYTES;
        part = tile.token + before;
        tokens = max(0, min(tile.width, m_pad - tile.token));
        part_tokens = min(tokens - before, PART);
    }

    // In memory the blocks of the low-rank branch are the last.
    DEVICE_MEMBER void copy_weights(int block, int stage) const {
        const int token_bytes = block < LOW_RANK_BLOCKS ? INNER_BYTES * min(2, SLICES - 2 * block) : K_BLOCK;
        const int at = block < LOW_RANK_BLOCKS ? K_BLOCKS + block : block - LOW_RANK_BLOCKS;
        barrier_expect(shared.full(stage), PANEL_BYTES + tokens * token_bytes);
        copy_to_shared(shared.weights(stage), panel + static_cast<u64>(at) * PANELS * PANEL_BYTES, PANEL_BYTES, shared.full(stage));
    }

    // Rows `part` to `part + part_tokens` of `from`, to every block of the cluster.
    DEVICE_MEMBER void copy_part(const u8* from, u32 to, int row_bytes, int stage) const {
        from += static_cast<u64>(part) * row_bytes;
        if constexpr (CLUSTER == 1)
            copy_to_shared(to, from, part_tokens * row_bytes, shared.full(stage));
        else
            copy_to_cluster(to + rank * PART * row_bytes, from, part_tokens * row_bytes, shared.full(stage), (1 << CLUSTER) - 1);
    }

    DEVICE_MEMBER void copy_tokens(int block, int stage) const {
        if (part_tokens <= 0) return;
        if (block >= LOW_RANK_BLOCKS) {
            copy_part(codes + static_cast<u64>(block - LOW_RANK_BLOCKS) * m_pad * K_BLOCK, shared.stage(stage), K_BLOCK, stage);
            return;
        }
        for (int slice = 2 * block, i = 0; slice + i < SLICES && i < 2; ++i)
            copy_part(inner + static_cast<u64>(slice + i) * m_pad * INNER_BYTES, shared.stage(stage) + i * TOKENS * INNER_BYTES,
                      INNER_BYTES, stage);
    }

    // One warp: the first round of the ring a stage a lane, the others by the first lane. The weights do not depend on the kernel
    // before this one and go ahead.
    DEVICE_MEMBER void run(const TileScheduler& scheduler, int lane) {
        const int ahead = min(STAGES, BLOCKS);
        begin(scheduler.tile(scheduler.first));
        if (lane < ahead) copy_weights(lane, lane);
        launch_dependents();
        if constexpr (CLUSTER > 1) cluster_wait();
        wait_for_dependencies();
        if (lane < ahead) copy_tokens(lane, lane);
        if (lane > 0) return;
        Slot slot{ahead % STAGES, static_cast<u32>(ahead / STAGES)};
        for (int tile = scheduler.first, block = ahead; tile < scheduler.count; tile += scheduler.stride, block = 0) {
            begin(scheduler.tile(tile));
            for (; block < BLOCKS; ++block, slot.advance()) {
                barrier_wait(shared.empty(slot.stage), slot.parity ^ 1);
                copy_weights(block, slot.stage);
                copy_tokens(block, slot.stage);
            }
        }
    }
};

// Multiplies: the accumulators of a warpgroup for one tile after the other.
struct Mainloop {
    Shared shared;
    int lane;
    u32 thread_at;  // of this thread's codes, from the start of a stage
    u32 steps_at;   // of its steps
    Slot slot{};

    DEVICE_MEMBER Mainloop(Shared shared, int warp, int lane) : shared(shared), lane(lane) {
        const u32 tile = TOKEN_BYTES + warp / 4 * TILE_BYTES;
        thread_at = tile + (warp % 4 * 32 + lane) * 16;
        steps_at = tile + CODE_BYTES + (warp % 4 * 8 + lane / 4) * STEPS;
    }

    // Gives a stage back to every block that writes into it.
    DEVICE_MEMBER void release(int stage) const {
        if constexpr (CLUSTER == 1)
            barrier_arrive_warp(shared.empty(stage), lane);
        else
            barrier_arrive_cluster<CLUSTER>(shared.empty(stage), lane);
    }

    DEVICE_MEMBER int stage_before() const { return slot.stage == 0 ? STAGES - 1 : slot.stage - 1; }

    // Blocks `first` to `last` of K. A quarter of a block is decoded while the wgmmas of the three before it may still run. `BEGUN`: a
    // block of the low-rank branch is before them, in the accumulators and perhaps still running.
    template <int WIDTH, bool BEGUN>
    DEVICE_MEMBER void multiply(int first, int last, float (&accumulators)[WIDTH / 2]) {
        u32 a[16];
#pragma unroll 1
        for (int block = first; block < last; ++block) {
            barrier_wait(shared.full(slot.stage), slot.parity);
            const u32 stage = shared.stage(slot.stage);
            Codes<STEPS> codes;
            codes.load(stage + thread_at, stage + steps_at, shared.table());
            const u64 b = descriptor<Swizzle::Bytes128>(stage);
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                wgmma_wait<3>();
                codes.decode_part(j, shared.table(), a + 4 * j);
                wgmma_fence();
                Wgmma<WIDTH>::e4m3(accumulators, a + 4 * j, b + 2 * j, BEGUN || j > 0 || block > first);
                wgmma_commit();
            }
            if (BEGUN || block > first) release(stage_before());
            slot.advance();
        }
        wgmma_wait<0>();
        release(stage_before());
    }

    // A block of the low-rank branch. The last may still run, and its stage is given back by who comes next.
    template <int WIDTH>
    DEVICE_MEMBER void multiply_low_rank(int block, u32 (&a)[8], float (&accumulators)[WIDTH / 2]) {
        barrier_wait(shared.full(slot.stage), slot.parity);
        const u32 stage = shared.stage(slot.stage);
        const uint4 low = load_shared_16(stage + thread_at), high = load_shared_16(stage + thread_at + CODE_BYTES / 2);
        a[0] = low.x, a[1] = low.y, a[2] = low.z, a[3] = low.w, a[4] = high.x, a[5] = high.y, a[6] = high.z, a[7] = high.w;
        wgmma_fence();
        Wgmma<WIDTH>::bf16(accumulators, a, descriptor<Swizzle::Bytes32>(stage), block > 0);
        if (SLICES - 2 * block > 1)
            Wgmma<WIDTH>::bf16(accumulators, a + 4, descriptor<Swizzle::Bytes32>(stage + TOKENS * INNER_BYTES), 1);
        wgmma_commit();
        if (block + 1 < LOW_RANK_BLOCKS) {
            wgmma_wait<0>();
            release(slot.stage);
        }
        slot.advance();
    }

    template <int WIDTH>
    DEVICE_MEMBER void run(float (&accumulators)[WIDTH / 2]) {
        u32 a[8];
#pragma unroll 1
        for (int block = 0; block < LOW_RANK_BLOCKS; ++block) multiply_low_rank<WIDTH>(block, a, accumulators);
        if constexpr (!SEGMENTED) {
            multiply<WIDTH, (LOW_RANK_BLOCKS > 0)>(0, K_BLOCKS, accumulators);
        } else {
            if constexpr (LOW_RANK_BLOCKS > 0) {
                wgmma_wait<0>();
                release(stage_before());
            } else {
#pragma unroll
                for (int i = 0; i < WIDTH / 2; ++i) accumulators[i] = 0.f;
            }
            for (int first = 0; first < K_BLOCKS; first += SEGMENT) {
                float part[WIDTH / 2];
                multiply<WIDTH, false>(first, min(K_BLOCKS, first + SEGMENT), part);
#pragma unroll
                for (int i = 0; i < WIDTH / 2; ++i) accumulators[i] += part[i];
            }
        }
    }
};

// Scales the accumulators of a warpgroup and stores them; what lies outside the layer is dropped.
struct Epilogue {
    Shared shared;
    const float* row_scales;
    const float* bias;
    const float* token_scales;
    void* y;
    const TensorMap* chunks;  // of y, where it is aligned to 16 bytes
    long long y_stride;
    int m, rank, warp, lane;
    // Of the tile in hand, fetched before it is multiplied: scales and biases of this thread's rows, scales of two tokens.
    int tile_row{}, token{};
    float scales[2]{}, biases[2]{}, fetched[TOKEN_SCALES]{};

    DEVICE_MEMBER int thread() const { return warp % 4 * 32 + lane; }

    DEVICE_MEMBER void begin(Tile tile) {
        tile_row = (tile.group * CLUSTER + rank) * PANEL_ROWS + warp / 4 * TILE_ROWS;
        token = tile.token;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const int row = tile_row + warp % 4 * 16 + lane / 4 + 8 * i;
            scales[i] = row < N ? row_scales[row] : 0.f;
            biases[i] = row < N && bias ? bias[row] : 0.f;
        }
#pragma unroll
        for (int i = 0; i < TOKEN_SCALES; ++i) {
            const int at = token + thread() + 128 * i;
            fetched[i] = at < m ? token_scales[at] : 0.f;
        }
    }

    template <int WIDTH>
    DEVICE_MEMBER void run(const float (&accumulators)[WIDTH / 2]) const {
        const u32 scales_at = shared.token_scales(warp / 4);
#pragma unroll
        for (int i = 0; i < TOKEN_SCALES; ++i)
            store_shared_float(scales_at + (thread() + 128 * i) * 4, fetched[i]);
        if (thread() == 0) copies_to_global_read();
        synchronize();
        const bool aligned = ((reinterpret_cast<u64>(y) | static_cast<u64>(y_stride) * 2) & 15) == 0;
#pragma unroll
        for (int chunk = 0; chunk < WIDTH / CHUNK; ++chunk) {
            const int first = token + chunk * CHUNK;
            if (first >= m) break;
            float values[CHUNK / 8][4];
#pragma unroll
            for (int j = 0; j < CHUNK / 8; ++j) {
                float left, right;
                asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];"
                             : "=f"(left), "=f"(right)
                             : "r"(scales_at + (chunk * CHUNK + 8 * j + 2 * (lane % 4)) * 4));
                const float* fragment = accumulators + (chunk * (CHUNK / 8) + j) * 4;
                values[j][0] = fragment[0] * (scales[0] * left) + biases[0];
                values[j][1] = fragment[1] * (scales[0] * right) + biases[0];
                values[j][2] = fragment[2] * (scales[1] * left) + biases[1];
                values[j][3] = fragment[3] * (scales[1] * right) + biases[1];
            }
            if constexpr (ZQC_OUTPUT == Type::F32)
                store_floats(first, values);
            else
                store_halves(chunk & 1, first, values, aligned);
        }
        // The next tile's scales replace these.
        if constexpr (ZQC_OUTPUT == Type::F32) synchronize();
    }

    // The threads of this warpgroup.
    DEVICE_MEMBER void synchronize() const {
        if (warp < 4)
            asm volatile("bar.sync 1, 128;" ::: "memory");
        else
            asm volatile("bar.sync 2, 128;" ::: "memory");
    }

    DEVICE_MEMBER void store_floats(int first, const float (&values)[CHUNK / 8][4]) const {
        const int row = tile_row + warp % 4 * 16 + lane / 4;
#pragma unroll
        for (int j = 0; j < CHUNK / 8; ++j)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int at_row = row + i / 2 * 8, at = first + 8 * j + 2 * (lane % 4) + i % 2;
                if (at_row < N && at < m) store<ZQC_OUTPUT>(y, at * y_stride + at_row, values[j][i]);
            }
    }

    // Transposes the fragments into rows of tokens, 64 outputs or 128 bytes each, whose 16-byte parts are swizzled, and stores them by the
    // TMA, which has read the other buffer before anyone writes into it again.
    DEVICE_MEMBER void store_halves(int buffer, int first, const float (&values)[CHUNK / 8][4], bool aligned) const {
        const u32 chunk = shared.chunk(warp / 4, buffer);
#pragma unroll
        for (int j = 0; j < CHUNK / 8; j += 2) {
            // Matrix lane / 8: rows 0 or 8 of the fragment, tokens of part j or j + 1; its row lane % 8 is a token.
            const int token = 8 * (j + lane / 16) + lane % 8, part = warp % 4 * 2 + lane / 8 % 2;
            const u32 to = chunk + token * 128 + (part ^ (token & 7)) * 16;
            asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(to),
                         "r"(pack<ZQC_OUTPUT>(values[j][0], values[j][1])), "r"(pack<ZQC_OUTPUT>(values[j][2], values[j][3])),
                         "r"(pack<ZQC_OUTPUT>(values[j + 1][0], values[j + 1][1])),
                         "r"(pack<ZQC_OUTPUT>(values[j + 1][2], values[j + 1][3]))
                         : "memory");
        }
        fence_for_async();
        if (thread() == 0) copies_to_global_read();
        synchronize();
        if (aligned) {
            if (thread() > 0) return;
            copy_box_to_global(chunks, tile_row, first, chunk);
            copies_to_global_commit();
            return;
        }
        for (int i = thread(); i < CHUNK * TILE_ROWS; i += 128) {
            const int token = i / TILE_ROWS, row = i % TILE_ROWS;
            if (first + token >= m || tile_row + row >= N) continue;
            u16 half;
            asm volatile("ld.shared.u16 %0, [%1];" : "=h"(half) : "r"(chunk + token * 128 + (row / 8 ^ (token & 7)) * 16 + row % 8 * 2));
            static_cast<u16*>(y)[(first + token) * y_stride + tile_row + row] = half;
        }
    }

    // Waits for the TMA.
    DEVICE_MEMBER void finish() const {
        if (thread() == 0) copies_to_global_wait();
    }
};

template <int WIDTH>
DEVICE void compute(Tile tile, Mainloop& mainloop, Epilogue& epilogue) {
    epilogue.begin(tile);
    float accumulators[WIDTH / 2];
    mainloop.run<WIDTH>(accumulators);
    epilogue.run<WIDTH>(accumulators);
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) __cluster_dims__(CLUSTER, 1, 1)
    zqc_linear(const u8* weights, const float* row_scales, const float* bias, const u8* codes, const float* token_scales,
               const void* inner, void* y, long long y_stride, int m, int m_pad, const __grid_constant__ TensorMap chunks) {
    extern __shared__ u8 dynamic[];
    const Shared shared{(shared_address(dynamic) + 1023) / 1024 * 1024};
    const int rank = CLUSTER == 1 ? 0 : cluster_rank(), warp = warp_index(), lane = threadIdx.x % 32;
    const TileScheduler scheduler(blockIdx.x / CLUSTER, gridDim.x / CLUSTER, m);

    if (warp == 4 * WARPGROUPS && lane < STAGES) {
        barrier_init(shared.full(lane), 1);
        barrier_init(shared.empty(lane), CONSUMERS / 32 * CLUSTER);
        barrier_init_fence();
    }
    if (threadIdx.x < 16)
        asm volatile("st.shared.b64 [%0], %1;" ::"r"(shared.table() + threadIdx.x * 8), "l"(TABLE[threadIdx.x]) : "memory");
    __syncthreads();
    if constexpr (CLUSTER > 1) cluster_arrive_relaxed();

    if (warp >= 4 * WARPGROUPS) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        if (warp == 4 * WARPGROUPS)
            Producer{shared, rank, weights, codes, static_cast<const u8*>(inner), m_pad}.run(scheduler, lane);
        else if constexpr (CLUSTER > 1)
            cluster_wait();
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
        if constexpr (CLUSTER > 1) cluster_wait();
        wait_for_dependencies();  // makes the token scales visible
        Mainloop mainloop(shared, warp, lane);
        Epilogue epilogue{shared, row_scales, bias, token_scales, y, &chunks, y_stride, m, rank, warp, lane};
        int index = scheduler.first;
        for (; index < scheduler.whole; index += scheduler.stride) compute<TOKENS>(scheduler.tile(index), mainloop, epilogue);
        if constexpr (TOKENS == 256)
            for (; index < scheduler.count; index += scheduler.stride) compute<128>(scheduler.tile(index), mainloop, epilogue);
        epilogue.finish();
    }
    // No block may leave while another one still releases stages to it.
    if constexpr (CLUSTER > 1) {
        __syncwarp();
        cluster_arrive_relaxed();
        cluster_wait();
    }
}
