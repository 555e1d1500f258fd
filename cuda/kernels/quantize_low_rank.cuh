// The first half of the low-rank branches, on the codes in shared memory.
#pragma once
#include "quantize_layout.cuh"

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
                        store<Type::BF16>(row, (half ^ (token >> 2 & 1)) * 8 + i % 32 / 4, ranks[t][half]);
                }
            }
        }
    }
};
