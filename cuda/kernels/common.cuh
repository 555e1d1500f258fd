// What the kernels share: the PTX that CUDA C++ has no name for, and the conversion of FP4 codes.
// No header of the toolkit is needed, so that NVRTC compiles the sources on a machine that has only the driver.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

constexpr int K_BLOCK = 128;       // columns of a block, one 128-byte row of E4M3 a token
constexpr int TILE_ROWS = 64;      // rows of a tile, the M of wgmma
constexpr int PANEL_ROWS = 128;    // rows of a panel, two tiles
constexpr int CODE_BYTES = 4096;   // codes of a tile in a block
constexpr int INNER_RANKS = 16;    // ranks of a slice of the inner values, the K of wgmma for bf16
constexpr int INNER_BYTES = 32;    // bytes of a token in a slice
constexpr int SHARED_LIMIT = 232448;  // dynamic shared memory of a block on sm_90

__host__ __device__ constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }
__host__ __device__ constexpr int min_of(int a, int b) { return a < b ? a : b; }
__host__ __device__ constexpr int max_of(int a, int b) { return a > b ? a : b; }
// Codes and steps of a tile in a block of K; two of them, a panel, are a multiple of 128 bytes.
__host__ __device__ constexpr int tile_bytes(int steps) { return CODE_BYTES + max_of(64, 32 * steps); }

#define DEVICE static __device__ __forceinline__
#define DEVICE_MEMBER __device__ __forceinline__

DEVICE u32 shared_address(const void* pointer) { return static_cast<u32>(__cvta_generic_to_shared(pointer)); }

DEVICE u32 cluster_rank() {
    u32 rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

// The address of `local` in the shared memory of block `rank` of the cluster.
DEVICE u32 map_to_rank(u32 local, u32 rank) {
    u32 remote;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(local), "r"(rank));
    return remote;
}

// The barrier of the cluster; `arrive_relaxed` orders no memory but initialized mbarriers after their fence.
DEVICE void cluster_arrive() { asm volatile("barrier.cluster.arrive.release;" ::: "memory"); }
DEVICE void cluster_arrive_relaxed() { asm volatile("barrier.cluster.arrive.relaxed;" ::: "memory"); }
DEVICE void cluster_wait() { asm volatile("barrier.cluster.wait.acquire;" ::: "memory"); }

// Programmatic dependent launch: the kernel after this one may start; wait for the kernel before this one.
DEVICE void launch_dependents() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }
DEVICE void wait_for_dependencies() { asm volatile("griddepcontrol.wait;" ::: "memory"); }

// mbarriers: 8 bytes of shared memory each, by address.

DEVICE void barrier_init(u32 barrier, u32 arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

// Makes initialized barriers visible to the TMA and to the other blocks of the cluster.
DEVICE void barrier_init_fence() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

DEVICE void barrier_arrive(u32 barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// One arrival for a warp, whose lanes have all done what it says; the predicate is in the assembly, where it leaves uniform registers alone.
DEVICE void barrier_arrive_warp(u32 barrier, int lane) {
    __syncwarp();
    asm volatile("{ .reg .pred first; setp.eq.s32 first, %1, 0;\n@first mbarrier.arrive.shared::cta.b64 _, [%0]; }" ::"r"(barrier), "r"(lane)
                 : "memory");
}

// The same at this barrier of every block of a cluster.
template <int CLUSTER>
DEVICE void barrier_arrive_cluster(u32 barrier, int lane) {
    __syncwarp();
    asm volatile("{ .reg .pred one; setp.lt.s32 one, %1, %2;\n@one mbarrier.arrive.shared::cluster.b64 _, [%0]; }" ::"r"(
                     map_to_rank(barrier, lane % CLUSTER)),
                 "r"(lane), "n"(CLUSTER)
                 : "memory");
}

// The warp of this thread, in a register that is known to be the same for all of its lanes.
DEVICE int warp_index() { return __shfl_sync(~0u, threadIdx.x / 32, 0); }

// Arrivals and waits keep the default scope, the block: a wider one costs a fence of the whole device each time, and what they hand
// over here is read or written by the TMA, the tensor cores or `send`, which order themselves by the barrier.
DEVICE void barrier_arrive_remote(u32 barrier, u32 rank) {
    asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(map_to_rank(barrier, rank)) : "memory");
}

DEVICE void barrier_expect(u32 barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

DEVICE void barrier_wait(u32 barrier, u32 parity) {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@done bra finished;\n"
        "bra again;\n"
        "finished:\n"
        "}\n" ::"r"(barrier),
        "r"(parity)
        : "memory");
}

// A position in a ring of stages, and the parity of the phase that its barriers are in.
template <int STAGES>
struct RingSlot {
    int stage = 0;
    u32 parity = 0;
    DEVICE_MEMBER void advance() {
        if (++stage == STAGES) {
            stage = 0;
            parity ^= 1;
        }
    }
};

// Bulk copies: `bytes` and both addresses are multiples of 16.

DEVICE void copy_to_shared(u32 shared, const void* global, u32 bytes, u32 barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(shared),
                 "l"(global), "r"(bytes), "r"(barrier)
                 : "memory");
}

// The same into every block of the cluster that has a bit in `mask`, each at this address and with its own barrier.
DEVICE void copy_to_cluster(u32 shared, const void* global, u32 bytes, u32 barrier, u16 mask) {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1], %2, [%3], %4;" ::"r"(
            shared),
        "l"(global), "r"(bytes), "r"(barrier), "h"(mask)
        : "memory");
}

DEVICE void copy_to_global(void* global, u32 shared, u32 bytes) {
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(global), "r"(shared), "r"(bytes) : "memory");
}

// A CUtensorMap, which describes an array in global memory to the TMA.
struct alignas(64) TensorMap {
    u64 words[16];
};

// A box of a matrix, from `column` and `row` on; what lies outside the matrix is left out.
DEVICE void copy_box_to_global(const TensorMap* matrix, int column, int row, u32 shared) {
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%1, %2}], [%3];" ::"l"(matrix), "r"(column), "r"(row),
                 "r"(shared)
                 : "memory");
}

DEVICE void copies_to_global_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
// Their sources have been read; and all is done.
DEVICE void copies_to_global_read() { asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory"); }
DEVICE void copies_to_global_wait() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }

// Orders ordinary writes to shared memory before reads by the TMA and the tensor cores.
DEVICE void fence_for_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// What the blocks of a cluster send into the shared memory of one of them, behind an mbarrier of that block: asynchronous stores whose
// bytes it counts or, where there is one block, ordinary stores behind which every sending thread arrives.
template <int CLUSTER>
struct Mailbox {
    DEVICE_MEMBER static void init(u32 barrier, u32 senders) { barrier_init(barrier, CLUSTER == 1 ? senders : 1); }

    // The receiver, once a phase.
    DEVICE_MEMBER static void expect(u32 barrier, u32 bytes) {
        if constexpr (CLUSTER > 1) barrier_expect(barrier, bytes);
    }

    // To block `rank`; addresses are those of the receiver's own shared memory.
    DEVICE_MEMBER static void send(u32 rank, u32 to, float value, u32 barrier) {
        if constexpr (CLUSTER == 1)
            asm volatile("st.shared.f32 [%0], %1;" ::"r"(to), "f"(value) : "memory");
        else
            asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.f32 [%0], %1, [%2];" ::"r"(map_to_rank(to, rank)),
                         "f"(value), "r"(map_to_rank(barrier, rank))
                         : "memory");
    }

    DEVICE_MEMBER static void send(u32 rank, u32 to, float4 values, u32 barrier) {
        if constexpr (CLUSTER == 1)
            asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(to), "f"(values.x), "f"(values.y), "f"(values.z),
                         "f"(values.w)
                         : "memory");
        else
            asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(
                             map_to_rank(to, rank)),
                         "f"(values.x), "f"(values.y), "f"(values.z), "f"(values.w), "r"(map_to_rank(barrier, rank))
                         : "memory");
    }

    DEVICE_MEMBER static void send(u32 rank, u32 to, uint2 words, u32 barrier) {
        if constexpr (CLUSTER == 1)
            asm volatile("st.shared.v2.b32 [%0], {%1, %2};" ::"r"(to), "r"(words.x), "r"(words.y) : "memory");
        else
            asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.b32 [%0], {%1, %2}, [%3];" ::"r"(
                             map_to_rank(to, rank)),
                         "r"(words.x), "r"(words.y), "r"(map_to_rank(barrier, rank))
                         : "memory");
    }

    // Every sending thread, once a phase, after what it sent.
    DEVICE_MEMBER static void sent(u32 barrier) {
        if constexpr (CLUSTER == 1) barrier_arrive(barrier);
    }
};

DEVICE uint4 load_shared_16(u32 address) {
    uint4 v;
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(address));
    return v;
}

DEVICE float load_shared_float(u32 address) {
    float value;
    asm volatile("ld.shared.f32 %0, [%1];" : "=f"(value) : "r"(address) : "memory");
    return value;
}

DEVICE void store_shared_float(u32 address, float value) { asm volatile("st.shared.f32 [%0], %1;" ::"r"(address), "f"(value) : "memory"); }

DEVICE uint2 load_shared_8(u32 address) {
    uint2 v;
    asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "r"(address) : "memory");
    return v;
}

DEVICE float4 load_shared_floats(u32 address) {
    float4 v;
    asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];" : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w) : "r"(address) : "memory");
    return v;
}

// Types of values, as ZQC_INPUT and ZQC_OUTPUT have them.
namespace Type {
enum : int { BF16 = 0, F16 = 1, F32 = 2, E4M3 = 3 };
}

// Formats of the 8-bit codes of a table, as ZQC_CODES has them.
namespace Code {
enum : int { INT8 = 0, E4M3 = 1 };
}

// Two floats as one word of two 16-bit numbers, `low` in the low half.
template <int TYPE>
DEVICE u32 pack(float low, float high) {
    u32 word;
    if constexpr (TYPE == Type::BF16)
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    else
        asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    return word;
}

// The float that the low half of a word is.
template <int TYPE>
DEVICE float widen(u32 word) {
    if constexpr (TYPE == Type::BF16) return __uint_as_float(word << 16);
    float value;
    asm("{ .reg .b16 l, h; mov.b32 {l, h}, %1; cvt.f32.f16 %0, l; }" : "=f"(value) : "r"(word));
    return value;
}

// The value of an 8-bit code.
template <int CODES>
DEVICE float code_value(u32 code) {
    if constexpr (CODES == Code::INT8) return static_cast<float>(static_cast<signed char>(code));
    u32 halves;
    asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"(static_cast<u16>(code)));
    return widen<Type::F16>(halves);
}

template <int TYPE>
DEVICE void store(void* y, long long index, float value) {
    if constexpr (TYPE == Type::F32)
        static_cast<float*>(y)[index] = value;
    else
        static_cast<u16*>(y)[index] = static_cast<u16>(pack<TYPE>(value, 0.f));
}

// The conversion of FP4 to E4M3 (docs/package.md): the eight magnitudes of a group are the bytes of a 64-bit word of the
// table, and byte permutation looks four codes up at once. A table entry per step lies in shared memory; the 16 of them cover the
// 32 banks once, so that any lanes may read any entries without conflict.

constexpr int TABLE_BYTES = 128;

DEVICE uint2 table_entry(u32 table, u32 step) {
    uint2 entry;
    asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];" : "=r"(entry.x), "=r"(entry.y) : "r"(table + step * 8));
    return entry;
}

// The bytes of `entry` that the low four nibbles of `selector` name; `__byte_perm` would mask the selector once more.
DEVICE u32 permute(uint2 entry, u32 selector) {
    u32 bytes;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(bytes) : "r"(entry.x), "r"(entry.y), "r"(selector));
    return bytes;
}

// Codes 0 .. 3 of `word` in the four bytes of `first`, codes 4 .. 7 in those of `second`: 7 instructions.
DEVICE void decode(u32 word, uint2 entry, u32& first, u32& second) {
    const u32 codes = word & 0x77777777u;
    first = permute(entry, codes) | (word & 0x80808080u);
    second = permute(entry, codes >> 16) | ((word << 4) & 0x80808080u);
}

// A thread's part of a block of weights of one tile: 8 words of codes, the steps of its two rows and their table entries.
template <int STEPS>
struct Codes {
    u32 words[8];
    u32 steps;  // of group s of the block: bits 8s .. 8s+3 for the first row, 8s+4 .. 8s+7 for the second
    uint2 rows[2];

    DEVICE_MEMBER void load(u32 codes_at, u32 steps_at, u32 table) {
        const uint4 low = load_shared_16(codes_at), high = load_shared_16(codes_at + CODE_BYTES / 2);
        words[0] = low.x, words[1] = low.y, words[2] = low.z, words[3] = low.w;
        words[4] = high.x, words[5] = high.y, words[6] = high.z, words[7] = high.w;
        if constexpr (STEPS == 1) asm volatile("ld.shared.u8 %0, [%1];" : "=r"(steps) : "r"(steps_at));
        if constexpr (STEPS == 2) asm volatile("{ .reg .u16 s; ld.shared.u16 s, [%1]; cvt.u32.u16 %0, s; }" : "=r"(steps) : "r"(steps_at));
        if constexpr (STEPS == 4) asm volatile("ld.shared.u32 %0, [%1];" : "=r"(steps) : "r"(steps_at));
        look_up(0, table);
    }

    DEVICE_MEMBER void look_up(int group, u32 table) {
        rows[0] = table_entry(table, steps >> (8 * group) & 15);
        rows[1] = table_entry(table, steps >> (8 * group + 4) & 15);
    }

    // The A operand of columns 32 j to 32 j + 31; j ascends.
    DEVICE_MEMBER void decode_part(int j, u32 table, u32* a) {
        if (j > 0 && j * STEPS % 4 == 0) look_up(j * STEPS / 4, table);
        decode(words[2 * j], rows[0], a[0], a[2]);
        decode(words[2 * j + 1], rows[1], a[1], a[3]);
    }
};
