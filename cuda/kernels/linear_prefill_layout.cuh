// Tiles and shared memory of the linear layer for many tokens.
#pragma once
#include "wgmma.cuh"

constexpr int N = ZQC_N, TOKENS = ZQC_TOKENS, STEPS = ZQC_STEPS, CLUSTER = ZQC_CLUSTER;
constexpr int SLICES = ZQC_RANK / INNER_RANKS;
constexpr int WARPGROUPS = 2, CONSUMERS = 128 * WARPGROUPS, THREADS = CONSUMERS + 128;
constexpr int PANELS = ceil_div(N, PANEL_ROWS), GROUPS = ceil_div(PANELS, CLUSTER);
constexpr int K_BLOCKS = ceil_div(ZQC_K, K_BLOCK), LOW_RANK_BLOCKS = ceil_div(SLICES, 2), BLOCKS = LOW_RANK_BLOCKS + K_BLOCKS;
constexpr int TILE_BYTES = tile_bytes(STEPS), PANEL_BYTES = 2 * TILE_BYTES;
constexpr int TOKEN_BYTES = TOKENS * K_BLOCK;
constexpr int STRIP = 2048 / TOKENS;  // token tiles of a strip
constexpr int SEGMENT = ZQC_ACCURATE ? 8 : 64;  // blocks
constexpr bool SEGMENTED = ZQC_ACCURATE ? K_BLOCKS > SEGMENT : K_BLOCKS > 128;
static_assert(!SEGMENTED || TOKENS <= 128, "two sets of accumulators take at most 128 tokens");
constexpr int PART = ceil_div(TOKENS / 8, CLUSTER) * 8;  // tokens that a rank fetches

constexpr int CHUNK = 32, CHUNK_BYTES = CHUNK * TILE_ROWS * 2;  // tokens that the epilogue transposes at a time
constexpr int STAGE_BYTES = ceil_div(TOKEN_BYTES + PANEL_BYTES, 1024) * 1024;
constexpr int CHUNKS_BYTES = WARPGROUPS * 2 * CHUNK_BYTES;
constexpr int STAGES = min_of(10, (SHARED_LIMIT - 4096 - CHUNKS_BYTES) / STAGE_BYTES);
constexpr int TOKEN_SCALES = ceil_div(TOKENS, 128);  // that a thread fetches for its warpgroup
constexpr int CHUNKS_AT = STAGES * STAGE_BYTES, SCALES_AT = CHUNKS_AT + CHUNKS_BYTES;
constexpr int TABLE_AT = SCALES_AT + WARPGROUPS * TOKEN_SCALES * 512;
constexpr int BARRIERS_AT = TABLE_AT + TABLE_BYTES, SHARED_BYTES = BARRIERS_AT + 8 * 2 * STAGES + 1024;

using Slot = RingSlot<STAGES>;

// Where things lie in the shared memory of this block.
struct Shared {
    u32 base;
    DEVICE_MEMBER u32 stage(int i) const { return base + i * STAGE_BYTES; }
    DEVICE_MEMBER u32 weights(int i) const { return stage(i) + TOKEN_BYTES; }
    DEVICE_MEMBER u32 chunk(int warpgroup, int i) const { return base + CHUNKS_AT + (2 * warpgroup + i) * CHUNK_BYTES; }
    DEVICE_MEMBER u32 token_scales(int warpgroup) const { return base + SCALES_AT + warpgroup * TOKEN_SCALES * 512; }
    DEVICE_MEMBER u32 table() const { return base + TABLE_AT; }
    DEVICE_MEMBER u32 full(int i) const { return base + BARRIERS_AT + 8 * i; }
    DEVICE_MEMBER u32 empty(int i) const { return full(STAGES + i); }
};

// The output of a cluster at a time: the rows of `group`, and `width` tokens from `token`.
struct Tile {
    int group, token, width;
};

// The tiles of a cluster: `first`, `first + stride`, ... below `count`, of which those from `whole` on have half of the tokens: the last
// tokens, where they are no more, or else what would leave clusters idle.
struct TileScheduler {
    int first, stride, token_tiles, whole, count;
    bool ends_in_half;

    DEVICE_MEMBER TileScheduler(int cluster, int clusters, int m) : first(cluster), stride(clusters) {
        ends_in_half = TOKENS == 256 && (m - 1) % TOKENS < TOKENS / 2;
        token_tiles = ceil_div(m, TOKENS) - ends_in_half;
        whole = count = GROUPS * token_tiles;
        const int rest = whole % clusters;
        if (ends_in_half) {
            count += GROUPS;
        } else if (TOKENS == 256 && 2 * rest <= clusters) {
            whole -= rest;
            count += rest;
        }
    }

    DEVICE_MEMBER Tile tile(int index) const {
        if (ends_in_half && index >= whole) return Tile{index - whole, token_tiles * TOKENS, TOKENS / 2};
        const int half = max(index - whole, 0), at = min(index, whole) + half / 2;
        const int strip = at / (STRIP * GROUPS), within = at % (STRIP * GROUPS), tiles = min(STRIP, token_tiles - strip * STRIP);
        const int token = (strip * STRIP + within % tiles) * TOKENS;
        if (index < whole) return Tile{within / tiles, token, TOKENS};
        return Tile{within / tiles, token + half % 2 * (TOKENS / 2), TOKENS / 2};
    }
};
