// y = x W^T for a W of 8-bit codes that lies row by row, with a scale a row, as a language-model head that shares the table of the tokens
// reads it, or a scale for every group of columns: bound by reading W for few tokens.
//
// Warp       16 rows of W times ZQC_TOKENS tokens over all of K by mma.sync, W as A. A lane takes 16 neighbouring codes of either of its two
//            rows at a time, and the 16 values of x that go with them: sums over K do not mind that its columns are in another order.
//            For 64 tokens, 32 rows, and the warps of a block share the values of x in shared memory, which the next ones are fetched for
//            while these are multiplied.
// Numbers    products are exact and added in f32: codes are exact in f16 and bf16, x stays what it is in f16 or bf16, f32 is the sum of three
//            bf16, E4M3 is exact in f16.
// Order      tokens fastest, so that W passes once.
// Groups     of a multiple of 64 columns, whose sums are scaled and added in f32.
//
// ZQC_GROUPED  1 where rows have several groups
// ZQC_CODES  0 int8, 1 E4M3     ZQC_INPUT  0 bf16, 1 f16, 2 f32, 3 E4M3     ZQC_OUTPUT  0 bf16, 1 f16, 2 f32     ZQC_TOKENS  8, 16, 32, 64
#include "common.cuh"

constexpr bool STAGED = ZQC_TOKENS == 64;
constexpr int TOKENS = ZQC_TOKENS, PARTS = TOKENS / 8, WARPS = 4, THREADS = 32 * WARPS;
constexpr int TILES = STAGED ? 2 : 1, WARP_ROWS = 16 * TILES, ROWS = WARPS * WARP_ROWS;
constexpr int LANE = 16, STEP = 4 * LANE;  // columns of a lane and of a warp at a time
constexpr int TERMS = ZQC_INPUT == Type::F32 ? 3 : 1;
constexpr int SIZE = ZQC_INPUT == Type::F32 ? 4 : ZQC_INPUT == Type::E4M3 ? 1 : 2;  // bytes of a value of x
constexpr int CHUNKS = 4 * SIZE;  // of 16 bytes, of a token in a step
constexpr int LINE = STEP * SIZE + 16;  // bytes of a token in shared memory, such that no two lanes of a read meet in a bank
constexpr int FETCHED = STAGED ? TOKENS * CHUNKS / THREADS : 1;
constexpr int FACTOR = ZQC_INPUT == Type::BF16 || ZQC_INPUT == Type::F32 ? Type::BF16 : Type::F16;  // the type that is multiplied

extern "C" __device__ const u32 zqc_launch[5] = {THREADS, 0, 1, ROWS, TOKENS};

// 16 bytes, of which `count` exist, and zeros.
DEVICE uint4 load(const u8* from, int count, bool aligned) {
    if (aligned && count >= 16) return *reinterpret_cast<const uint4*>(from);
    u32 words[4] = {0, 0, 0, 0};
#pragma unroll
    for (int i = 0; i < 16; ++i) words[i / 4] |= i < count ? u32(from[i]) << i % 4 * 8 : 0u;
    return make_uint4(words[0], words[1], words[2], words[3]);
}

// Four codes of kind `CODES` as factors, two a word.
template <int CODES>
DEVICE void factors(u32 codes, u32& first, u32& second) {
    if constexpr (CODES == Code::E4M3 && FACTOR == Type::F16) {
        asm("{ .reg .b16 l, h; mov.b32 {l, h}, %2; cvt.rn.f16x2.e4m3x2 %0, l; cvt.rn.f16x2.e4m3x2 %1, h; }"
            : "=r"(first), "=r"(second)
            : "r"(codes));
        return;
    }
    first = pack<FACTOR>(code_value<CODES>(codes & 255), code_value<CODES>(codes >> 8 & 255));
    second = pack<FACTOR>(code_value<CODES>(codes >> 16 & 255), code_value<CODES>(codes >> 24));
}

// Two floats as sums of bf16.
DEVICE void split(float low, float high, u32 (&terms)[TERMS]) {
#pragma unroll
    for (u32& term : terms) {
        term = pack<Type::BF16>(low, high);
        low -= widen<Type::BF16>(term), high -= widen<Type::BF16>(term >> 16);
    }
}

// The 16 values of x of a lane: of each two, the factors of every term.
struct Values {
    u32 words[LANE / 2][TERMS];

    DEVICE_MEMBER void set(const uint4 (&raw)[SIZE]) {
#pragma unroll
        for (int part = 0; part < SIZE; ++part) {
            const u32 four[4] = {raw[part].x, raw[part].y, raw[part].z, raw[part].w};
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                if constexpr (ZQC_INPUT == Type::E4M3)
                    factors<Code::E4M3>(four[i], words[2 * i][0], words[2 * i + 1][0]);
                else if constexpr (ZQC_INPUT != Type::F32)
                    words[(4 * part + i) % (LANE / 2)][0] = four[i];
                else if (i % 2 == 0)
                    split(__uint_as_float(four[i]), __uint_as_float(four[i + 1]), words[(2 * part + i / 2) % (LANE / 2)]);
            }
        }
    }
};

DEVICE void multiply(float4& d, const u32 (&a)[4], u32 b0, u32 b1) {
#define MMA(TYPE)                                                                                                              \
    asm("mma.sync.aligned.m16n8k16.row.col.f32." TYPE "." TYPE ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
        : "+f"(d.x), "+f"(d.y), "+f"(d.z), "+f"(d.w)                                                                           \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1))
    if constexpr (FACTOR == Type::BF16)
        MMA("bf16");
    else
        MMA("f16");
}

// The rows of a warp times the tokens of its block.
struct Product {
    const u8* rows[TILES][2];
    const float* scales[TILES][2];
    const u8* x;
    int first_row, first_token, m, n, k, group, quarter;
    bool aligned, aligned_x;
    // Of the group of columns in hand, and of those before it, scaled.
    float4 sums[TILES][PARTS], totals[TILES][PARTS];

    DEVICE_MEMBER Product(const u8* table, const float* all_scales, int groups, const u8* x, int m, int n, int k)
        : x(x), m(m), n(n), k(k), group(threadIdx.x % 32 / 4), quarter(threadIdx.x % 4),
          aligned(((reinterpret_cast<u64>(table) | static_cast<u64>(k)) & 15) == 0),
          aligned_x(((reinterpret_cast<u64>(x) | static_cast<u64>(k) * SIZE) & 15) == 0) {
        const int token_tiles = ceil_div(m, TOKENS), block = static_cast<int>(blockIdx.x);
        first_row = block / token_tiles * ROWS + static_cast<int>(threadIdx.x) / 32 * WARP_ROWS;
        first_token = block % token_tiles * TOKENS;
#pragma unroll
        for (int tile = 0; tile < TILES; ++tile) {
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                // Rows and tokens that do not exist are the last, and not stored.
                const long long at = min(row(tile, i), n - 1);
                rows[tile][i] = table + at * k;
                scales[tile][i] = all_scales + at * groups;
            }
#pragma unroll
            for (int part = 0; part < PARTS; ++part) sums[tile][part] = totals[tile][part] = make_float4(0.f, 0.f, 0.f, 0.f);
        }
    }

    DEVICE_MEMBER int row(int tile, int i) const { return first_row + 16 * tile + 8 * i + group; }

    // Codes of this lane in the step from column `first`.
    DEVICE_MEMBER void load_codes(int first, uint4 (&codes)[TILES][2]) const {
        const int column = first + LANE * quarter;
#pragma unroll
        for (int tile = 0; tile < TILES; ++tile)
#pragma unroll
            for (int i = 0; i < 2; ++i) codes[tile][i] = load(rows[tile][i] + column, k - column, aligned);
    }

    // Values of x of this lane, from global memory.
    DEVICE_MEMBER void load_values(int first, int part, uint4 (&raw)[SIZE]) const {
        const long long token = min(first_token + 8 * part + group, m - 1);
        const int column = first + LANE * quarter;
#pragma unroll
        for (int i = 0; i < SIZE; ++i)
            raw[i] = load(x + (token * k + column) * SIZE + 16 * i, (k - column) * SIZE - 16 * i, aligned_x);
    }

    // The share of this thread in the values of x of a step, and its place in shared memory.
    DEVICE_MEMBER void fetch(int first, uint4 (&fetched)[FETCHED]) const {
#pragma unroll
        for (int i = 0; i < FETCHED; ++i) {
            const int at = i * THREADS + static_cast<int>(threadIdx.x), chunk = at % CHUNKS;
            const long long token = min(first_token + at / CHUNKS, m - 1);
            fetched[i] = load(x + (token * k + first) * SIZE + 16 * chunk, (k - first) * SIZE - 16 * chunk, aligned_x);
        }
    }

    DEVICE_MEMBER static void put(u8* shared, const uint4 (&fetched)[FETCHED]) {
#pragma unroll
        for (int i = 0; i < FETCHED; ++i) {
            const int at = i * THREADS + static_cast<int>(threadIdx.x);
            *reinterpret_cast<uint4*>(shared + at / CHUNKS * LINE + at % CHUNKS * 16) = fetched[i];
        }
    }

    // Adds a step; `values_of` gives the values of a part.
    template <typename ValuesOf>
    DEVICE_MEMBER void add(const uint4 (&codes)[TILES][2], ValuesOf values_of) {
        u32 a[TILES][4][4];
#pragma unroll
        for (int tile = 0; tile < TILES; ++tile) {
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const uint4 v = codes[tile][i];
                const u32 four[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
                for (int j = 0; j < 4; ++j) factors<ZQC_CODES>(four[j], a[tile][j][i], a[tile][j][i + 2]);
            }
        }
#pragma unroll
        for (int part = 0; part < PARTS; ++part) {
            uint4 raw[SIZE];
            values_of(part, raw);
            Values values;
            values.set(raw);
#pragma unroll
            for (int tile = 0; tile < TILES; ++tile)
#pragma unroll
                for (int j = 0; j < 4; ++j)
#pragma unroll
                    for (int term = 0; term < TERMS; ++term)
                        multiply(sums[tile][part], a[tile][j], values.words[2 * j][term], values.words[2 * j + 1][term]);
        }
    }

    DEVICE_MEMBER void end_group(int index) {
#pragma unroll
        for (int tile = 0; tile < TILES; ++tile) {
            const float low = scales[tile][0][index], high = scales[tile][1][index];
#pragma unroll
            for (int part = 0; part < PARTS; ++part) {
                float4 &sum = sums[tile][part], &total = totals[tile][part];
                total.x += sum.x * low, total.y += sum.y * low, total.z += sum.z * high, total.w += sum.w * high;
                sum = make_float4(0.f, 0.f, 0.f, 0.f);
            }
        }
    }

    // Of a sum, rows `row` and the eighth after it, tokens `2 * quarter` and the next.
    DEVICE_MEMBER void store_all(void* y, const float* token_scales) const {
#pragma unroll
        for (int part = 0; part < PARTS; ++part) {
#pragma unroll
            for (int t = 0; t < 2; ++t) {
                const int token = first_token + 8 * part + 2 * quarter + t;
                if (token >= m) continue;
                const float token_scale = token_scales ? token_scales[token] : 1.f;
#pragma unroll
                for (int tile = 0; tile < TILES; ++tile) {
                    const float4 total = totals[tile][part];
                    const float of_rows[2] = {t ? total.y : total.x, t ? total.w : total.z};
#pragma unroll
                    for (int i = 0; i < 2; ++i)
                        if (row(tile, i) < n)
                            store<ZQC_OUTPUT>(y, static_cast<long long>(token) * n + row(tile, i), of_rows[i] * token_scale);
                }
            }
        }
    }
};

extern "C" __global__ void __launch_bounds__(THREADS)
    zqc_table_linear(const u8* table, const float* scales, const u8* x, const float* token_scales, void* y, int m, int n, int k,
                     int group_size) {
    launch_dependents();
    Product product(table, scales, ceil_div(k, group_size), x, m, n, k);
    wait_for_dependencies();
    const auto ends_group = [&](int first) { return ZQC_GROUPED && ((first + STEP) % group_size == 0 || first + STEP >= k); };

    if constexpr (STAGED) {
        __shared__ __align__(16) u8 lines[2][TOKENS * LINE];
        uint4 codes[TILES][2], fetched[FETCHED];
        product.load_codes(0, codes);
        product.fetch(0, fetched);
        int turn = 0;
        for (int first = 0; first < k; first += STEP, turn ^= 1) {
            product.put(lines[turn], fetched);
            __syncthreads();
            uint4 next[TILES][2];
            if (first + STEP < k) {
                product.load_codes(first + STEP, next);
                product.fetch(first + STEP, fetched);
            }
            const u8* line = lines[turn] + product.group * LINE + product.quarter * LANE * SIZE;
            product.add(codes, [&](int part, uint4 (&raw)[SIZE]) {
#pragma unroll
                for (int i = 0; i < SIZE; ++i) raw[i] = reinterpret_cast<const uint4*>(line + 8 * part * LINE)[i];
            });
            if (ends_group(first)) product.end_group(first / group_size);
#pragma unroll
            for (int tile = 0; tile < TILES; ++tile) codes[tile][0] = next[tile][0], codes[tile][1] = next[tile][1];
        }
    } else {
#pragma unroll(PARTS == 1 ? 4 : 1)
        for (int first = 0; first < k; first += STEP) {
            uint4 codes[TILES][2];
            product.load_codes(first, codes);
            product.add(codes, [&](int part, uint4 (&raw)[SIZE]) { product.load_values(first, part, raw); });
            if (ends_group(first)) product.end_group(first / group_size);
        }
    }
    if constexpr (!ZQC_GROUPED) product.end_group(0);
    product.store_all(y, token_scales);
}
