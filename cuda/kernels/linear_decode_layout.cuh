// Shares, tiles and shared memory of the linear layer for few tokens.
#pragma once
#include "wgmma.cuh"

constexpr int N = ZQC_N, TOKENS = ZQC_TOKENS, STEPS = ZQC_STEPS, SPLIT = ZQC_CLUSTER;
constexpr int SLICES = ZQC_RANK / INNER_RANKS, PARTS = TOKENS / 8;  // parts of 8 tokens
constexpr int PER_SM = ZQC_PER_SM;  // blocks of a multiprocessor
constexpr bool TILED = TOKENS >= 64;  // there may be several tiles of tokens
constexpr int PANELS = ceil_div(N, PANEL_ROWS);
constexpr int BLOCKS = ceil_div(ZQC_K, K_BLOCK);
constexpr int SHARE = ceil_div(BLOCKS, SPLIT);  // blocks of K that a rank has at most
constexpr int SEGMENT = ZQC_ACCURATE ? 8 : 64;  // blocks of K that the tensor cores add up, with the 14 bits they keep, before f32 does
// Warps; between them, that of the producer. The two sets of sums of a long share need the registers of more.
constexpr int MAINLOOP_WARPS = 8, EPILOGUE_WARPS = PER_SM == 1 && SHARE <= SEGMENT ? 7 : 3;
constexpr int EPILOGUE_THREADS = 32 * EPILOGUE_WARPS, THREADS = 32 * (MAINLOOP_WARPS + 1) + EPILOGUE_THREADS;
constexpr int TILE_BYTES = tile_bytes(STEPS), PANEL_BYTES = 2 * TILE_BYTES;
constexpr int TOKEN_BYTES = TOKENS * K_BLOCK;
// A warp of the mainloop has a fragment of 16 rows; a rank owns those from `first_owned`, and the most that any owns are:
constexpr int OWNED_WARPS = ceil_div(MAINLOOP_WARPS, SPLIT);
constexpr int OWNED = OWNED_WARPS * PARTS * 32;  // lanes that have four of their sums each
constexpr int OWNED_ROWS = OWNED_WARPS * 16;
DEVICE int first_owned(int rank) { return rank * MAINLOOP_WARPS / SPLIT; }
DEVICE int owner(int warp) { return (warp * SPLIT + SPLIT - 1) / MAINLOOP_WARPS; }

constexpr int BUDGET = (SHARED_LIMIT + 1024) / PER_SM - 1024;
constexpr bool RESIDENT = !TILED && SHARE * TOKEN_BYTES <= 96 * 1024 / PER_SM;
constexpr int RESIDENT_BYTES = RESIDENT ? SHARE * TOKEN_BYTES : 0;
constexpr int SUM_BYTES = SPLIT * OWNED * 8;           // for what the ranks send
constexpr int SUMS_BYTES = SUM_BYTES + (SLICES ? OWNED * 16 : 0);
constexpr int SCALES_BYTES = (2 * OWNED_ROWS + TOKENS) * 4;
constexpr int WEIGHTS_AT = RESIDENT ? 0 : TOKEN_BYTES;  // in a stage: its tokens come first, aligned for the swizzle
constexpr int STAGE_BYTES = RESIDENT ? PANEL_BYTES : ceil_div(TOKEN_BYTES + PANEL_BYTES, 1024) * 1024;
constexpr int STAGES = min_of(24, (BUDGET - 2048 - RESIDENT_BYTES - SUMS_BYTES - SCALES_BYTES) / STAGE_BYTES);
constexpr int RING_AT = RESIDENT_BYTES, SUMS_AT = RING_AT + STAGES * STAGE_BYTES, SCALES_AT = SUMS_AT + SUMS_BYTES;
constexpr int TABLE_AT = SCALES_AT + SCALES_BYTES;
constexpr int BARRIERS_AT = TABLE_AT + TABLE_BYTES, SHARED_BYTES = BARRIERS_AT + 8 * (2 * STAGES + 2) + 1024;

// Sums of products of E4M3 times 2^-SUM_SHIFT fit f16 whatever the codes are: each is at most 448 * 448.
__host__ __device__ constexpr int sum_shift(int shift) {
    return 448ll * 448 * K_BLOCK * SHARE <= (65504ll << shift) ? shift : sum_shift(shift + 1);
}
constexpr int SUM_SHIFT = sum_shift(0);
static_assert(STAGES >= 2, "the ring does not fit");

using Slot = RingSlot<STAGES>;
using Sums = Mailbox<SPLIT>;

// Where things lie in the shared memory of this block.
struct Shared {
    u32 base;
    DEVICE_MEMBER u32 resident(int block) const { return base + block * TOKEN_BYTES; }
    DEVICE_MEMBER u32 sums() const { return base + SUMS_AT; }
    DEVICE_MEMBER u32 scales() const { return base + SCALES_AT; }
    DEVICE_MEMBER u32 stage(int i) const { return base + RING_AT + i * STAGE_BYTES; }
    DEVICE_MEMBER u32 table() const { return base + TABLE_AT; }
    DEVICE_MEMBER u32 full(int i) const { return base + BARRIERS_AT + 8 * i; }
    DEVICE_MEMBER u32 empty(int i) const { return full(STAGES + i); }
    DEVICE_MEMBER u32 sums_full() const { return full(2 * STAGES); }
    DEVICE_MEMBER u32 sums_free() const { return full(2 * STAGES + 1); }
};

// What a cluster computes at a time: a panel of rows, and the tokens from `token`.
struct Tile {
    int panel, token;
};

// A rank's share: the tiles `cluster`, `cluster + clusters`, ..., of which there are `tiles`, tokens fastest, and the blocks `first` to
// `last` of K.
struct Work {
    int rank, cluster, clusters, token_tiles, tiles, first, last;

    DEVICE_MEMBER Work(int m) : rank(blockIdx.x % SPLIT), cluster(blockIdx.x / SPLIT), clusters(gridDim.x / SPLIT) {
        token_tiles = TILED ? ceil_div(m, TOKENS) : 1;
        const int all = PANELS * token_tiles;
        tiles = cluster < all ? (all - 1 - cluster) / clusters + 1 : 0;
        first = rank * BLOCKS / SPLIT;
        last = (rank + 1) * BLOCKS / SPLIT;
    }

    // Fragments that the rank owns.
    DEVICE_MEMBER int owned() const { return first_owned(rank + 1) - first_owned(rank); }

    DEVICE_MEMBER Tile tile(int index) const {
        const int at = cluster + index * clusters;
        if constexpr (!TILED) return Tile{at, 0};
        return Tile{at / token_tiles, at % token_tiles * TOKENS};
    }
};
