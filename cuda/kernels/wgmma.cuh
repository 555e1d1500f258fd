// Warpgroup matrix multiplication, D[64, N] += A[64, K] B[N, K] in f32: A in registers or shared memory, B in shared memory.
#pragma once
#include "common.cuh"

// Operands in shared memory: rows of 128 or 32 bytes, swizzled over their own length.
enum class Swizzle { Bytes128, Bytes32 };

// The descriptor of an operand whose rows lie one behind the other from `address`, in atoms of 8 rows.
template <Swizzle SWIZZLE>
DEVICE u64 descriptor(u32 address) {
    const u64 mode = SWIZZLE == Swizzle::Bytes128 ? 1 : 3;
    const u64 atom = SWIZZLE == Swizzle::Bytes128 ? 1024 : 256;
    return (mode << 62) | (atom >> 4 << 32) | (1ull << 16) | ((address & 0x3FFFF) >> 4);
}

DEVICE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int PENDING>
DEVICE void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory"); }

// The registers of D in groups of 16, and what follows them.
#define D4 "%0,%1,%2,%3"
#define D8 D4 ",%4,%5,%6,%7"
#define D16 D8 ",%8,%9,%10,%11,%12,%13,%14,%15"
#define D32 D16 ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define D48 D32 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47"
#define D64 D48 ",%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define D80 D64 ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79"
#define D96 D80 ",%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95"
#define D112 D96 ",%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111"
#define D128 D112 ",%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
#define F4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define F8(i) F4(i), F4(i + 4)
#define F16(i) F8(i), F8(i + 8)
#define F32(i) F16(i), F16(i + 16)

// For a D of COUNT registers: N, their names, their constraints; then the names of A's four registers, of B's descriptor and of the
// flag that says whether D is added to. With A in shared memory the names shift: the first three of A's are its descriptor, B's and the flag.
#define WGMMA_SHAPES(SHAPE)                                                                                                    \
    SHAPE(8, 4, D4, F4(0), "%4", "%5", "%6", "%7", "%8", "%9")                                                                 \
    SHAPE(16, 8, D8, F8(0), "%8", "%9", "%10", "%11", "%12", "%13")                                                            \
    SHAPE(32, 16, D16, F16(0), "%16", "%17", "%18", "%19", "%20", "%21")                                                       \
    SHAPE(64, 32, D32, F32(0), "%32", "%33", "%34", "%35", "%36", "%37")                                                       \
    SHAPE(96, 48, D48, F32(0) COMMA F16(32), "%48", "%49", "%50", "%51", "%52", "%53")                                         \
    SHAPE(128, 64, D64, F32(0) COMMA F32(32), "%64", "%65", "%66", "%67", "%68", "%69")                                        \
    SHAPE(160, 80, D80, F32(0) COMMA F32(32) COMMA F16(64), "%80", "%81", "%82", "%83", "%84", "%85")                          \
    SHAPE(192, 96, D96, F32(0) COMMA F32(32) COMMA F32(64), "%96", "%97", "%98", "%99", "%100", "%101")                        \
    SHAPE(224, 112, D112, F32(0) COMMA F32(32) COMMA F32(64) COMMA F16(96), "%112", "%113", "%114", "%115", "%116", "%117")    \
    SHAPE(256, 128, D128, F32(0) COMMA F32(32) COMMA F32(64) COMMA F32(96), "%128", "%129", "%130", "%131", "%132", "%133")
#define COMMA ,

template <int N>
struct Wgmma;

#define WGMMA_SHAPE(N, COUNT, NAMES, CONSTRAINTS, A0, A1, A2, A3, B, ADD)                                                      \
    template <>                                                                                                                \
    struct Wgmma<N> {                                                                                                          \
        /* K = 32, E4M3, A in registers. */                                                                                    \
        static __device__ __forceinline__ void e4m3(float (&d)[COUNT], const u32* a, u64 b, u32 add) {                         \
            asm volatile("{ .reg .pred p; setp.ne.u32 p, " ADD ", 0;\n"                                                        \
                         "wgmma.mma_async.sync.aligned.m64n" #N "k32.f32.e4m3.e4m3 {" NAMES "}, {" A0 "," A1 "," A2 "," A3 "}, " B ", p, 1, 1; }" \
                         : CONSTRAINTS                                                                                         \
                         : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));                                      \
        }                                                                                                                      \
        /* K = 32, E4M3, A in shared memory. */                                                                                \
        static __device__ __forceinline__ void e4m3_shared(float (&d)[COUNT], u64 a, u64 b, u32 add) {                         \
            asm volatile("{ .reg .pred p; setp.ne.u32 p, " A2 ", 0;\n"                                                         \
                         "wgmma.mma_async.sync.aligned.m64n" #N "k32.f32.e4m3.e4m3 {" NAMES "}, " A0 ", " A1 ", p, 1, 1; }"    \
                         : CONSTRAINTS                                                                                         \
                         : "l"(a), "l"(b), "r"(add));                                                                          \
        }                                                                                                                      \
        /* K = 16, bf16, A in registers. */                                                                                    \
        static __device__ __forceinline__ void bf16(float (&d)[COUNT], const u32* a, u64 b, u32 add) {                         \
            asm volatile("{ .reg .pred p; setp.ne.u32 p, " ADD ", 0;\n"                                                        \
                         "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" NAMES "}, {" A0 "," A1 "," A2 "," A3 "}, " B ", p, 1, 1, 0; }" \
                         : CONSTRAINTS                                                                                         \
                         : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));                                      \
        }                                                                                                                      \
    };
WGMMA_SHAPES(WGMMA_SHAPE)
