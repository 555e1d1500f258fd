// Tiles of the quantization of few tokens, and its shared memory.
#pragma once
#include "quantize_values.cuh"
#include "wgmma.cuh"

constexpr int TOKENS = ZQC_TOKENS, WARPS = 8, THREADS = 32 * WARPS, WARP_TOKENS = TOKENS / WARPS, PARTS = TOKENS / 8;
constexpr int LANE_VECTORS = ceil_div(SHARE * (K_BLOCK / VECTOR), 32);
constexpr int HELD = WARP_TOKENS * LANE_VECTORS * (CODED ? VECTOR / 4 : PACKED ? VECTOR / 2 : VECTOR);  // registers
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
constexpr int EXTREMES_AT = SUMS_AT + SUMS_BYTES, EXTREMES_BYTES = CLUSTER * TOKENS * 4, EXTREMES = ZQC_MODE == Mode::RMS_NORM ? 2 : 1;
constexpr int BARRIERS_AT = EXTREMES_AT + 2 * EXTREMES * EXTREMES_BYTES, SHARED_BYTES = BARRIERS_AT + 4 * 8 + 1024;

using Mail = Mailbox<CLUSTER>;

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
