// Places and shared memory of the quantization of many tokens.
#pragma once
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
