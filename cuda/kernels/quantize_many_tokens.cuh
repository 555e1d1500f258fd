// The tokens in the registers of the quantization of many: read, measured and converted.
#pragma once
#include "quantize_many_layout.cuh"

// The tokens of a group, from the read to the conversion; a lane has vectors of one.
struct Tokens {
    const Place& place;
    Shared shared;
    Share share;
    const void* x;
    const void* x2;
    long long x_stride, x2_stride;
    int m, count, blocks;  // vectors that lie in the share and in K, and those that are codes of the share
    bool aligned, aligned2;
    Vector vectors[VECTORS]{};
    float magnitude = 0.f, square = 0.f;

    DEVICE_MEMBER Tokens(const Place& place, Shared shared, Share share, const void* x, const void* x2, long long x_stride, long long x2_stride,
                         int m)
        : place(place), shared(shared), share(share), x(x), x2(x2), x_stride(x_stride), x2_stride(x2_stride), m(m),
          aligned2(is_aligned(x2, ZQC_MODE == Mode::RMS_NORM ? 0 : x2_stride)) {
        aligned = K % VECTOR == 0 && is_aligned(x, x_stride) && (!SILU_PACKED || aligned2);
        blocks = (share.blocks - place.warp / 4 + STEP - 1) / STEP;
        const int left = K - VECTOR - column(0);
        count = EVEN ? VECTORS : left < 0 ? 0 : min(blocks, left / (STEP * K_BLOCK) + 1);
    }

    DEVICE_MEMBER int column(int i) const { return (share.first + place.warp / 4 + i * STEP) * K_BLOCK + place.column(); }
    DEVICE_MEMBER bool exists(int i) const { return EVEN || i < blocks; }

    // Vector i of aligned rows.
    DEVICE_MEMBER void read(int i, int token) {
        u32* words = vectors[i].words;
        const bool is_there = token < m && (EVEN || i < count);
        const auto load = [&](const void* from, long long row, u32* to) {
            const int bytes = CODED ? 1 : ZQC_INPUT == Type::F32 ? 4 : 2;
            const u8* at = static_cast<const u8*>(from) + (row + column(0)) * bytes + i * STEP * K_BLOCK * bytes;
            if constexpr (CODED) {
                const uint2 two = is_there ? *reinterpret_cast<const uint2*>(at) : make_uint2(0, 0);
                to[0] = two.x, to[1] = two.y;
            } else {
#pragma unroll
                for (int part = 0; part < VECTOR * bytes / 16; ++part) {
                    const uint4 four = is_there ? reinterpret_cast<const uint4*>(at)[part] : make_uint4(0, 0, 0, 0);
                    to[4 * part] = four.x, to[4 * part + 1] = four.y, to[4 * part + 2] = four.z, to[4 * part + 3] = four.w;
                }
            }
        };
        load(x, token * x_stride, words);
        if constexpr (SILU_PACKED) load(x2, token * x2_stride, words + VECTOR / 2);
    }

    DEVICE_MEMBER void read(int token) {
        if (aligned) {
#pragma unroll
            for (int i = 0; i < VECTORS; ++i) read(i, token);
            return;
        }
#pragma unroll
        for (int i = 0; i < VECTORS; ++i) {
            Vector& vector = vectors[i];
            vector = Vector{};
            if (token >= m || !exists(i)) continue;
            if constexpr (CODED) {
                load_codes(x, token * x_stride, column(i), false, vector.words);
            } else if constexpr (ZQC_INPUT != Type::F32) {
                load_words(x, token * x_stride, column(i), false, vector.words);
                if constexpr (SILU_PACKED) load_words(x2, token * x2_stride, column(i), false, vector.words + VECTOR / 2);
            } else {
                float values[VECTOR];
                load_values(x, token * x_stride, column(i), false, values);
                vector.set(values);
            }
        }
    }

    // The prologue, as far as it does not need the whole token; largest magnitude and sum of squares of what the warp has of a token.
    DEVICE_MEMBER void measure(int token) {
        if constexpr (CODED) return;
        magnitude = square = 0.f;
        u32 halves = 0;
#pragma unroll
        for (int i = 0; i < VECTORS; ++i) {
            Vector& vector = vectors[i];
            if constexpr (PACKED && ZQC_MODE == Mode::PLAIN) {
#pragma unroll
                for (u32 word : vector.words) halves = larger_halves(halves, word & 0x7FFF7FFFu);
                continue;
            }
            float values[VECTOR], other[VECTOR];
            if constexpr (SILU_PACKED) {
#pragma unroll
                for (int k = 0; k < VECTOR; k += 2) {
                    expand(vector.words[k / 2], values[k], values[k + 1]);
                    expand(vector.words[(VECTOR + k) / 2], other[k], other[k + 1]);
                }
            } else {
                vector.get(values);
                if constexpr (ZQC_MODE != Mode::PLAIN) {
                    if (token >= m || !exists(i)) continue;
                    load_values(x2, ZQC_MODE == Mode::RMS_NORM ? 0 : token * x2_stride, column(i), aligned2, other);
                }
            }
            measure_values(values, other, magnitude, square);
            if constexpr (ZQC_MODE == Mode::SILU_MUL) vector.set(values);
        }
        if constexpr (PACKED && ZQC_MODE == Mode::PLAIN) {
            float first, second;
            expand(halves, first, second);
            magnitude = fmaxf(first, second);
        }
#pragma unroll
        for (int step = 1; step < 4; step *= 2) {
            magnitude = fmaxf(magnitude, __shfl_xor_sync(~0u, magnitude, step));
            if constexpr (ZQC_MODE == Mode::RMS_NORM) square += __shfl_xor_sync(~0u, square, step);
        }
    }

    // Magnitudes and squares of whole tokens, from all warps of the group and blocks of the cluster. `tile` counts the tiles of this block.
    DEVICE_MEMBER void exchange(int tile) {
        if constexpr (CODED) {  // as below, what the last tile left in shared memory has been read
            if constexpr (CLUSTER > 1) {
                cluster_arrive();
                cluster_wait();
            } else {
                place.synchronize();
            }
            return;
        }
        const int turn = tile & 1;
        const u32 local = shared.local(turn, place.token());
        if (place.quarter() == 0) {
            store_shared_float(local + place.warp * 4, magnitude);
            if constexpr (ZQC_MODE == Mode::RMS_NORM) store_shared_float(local + LOCAL_BYTES + place.warp * 4, square);
        }
        place.synchronize();
        magnitude = square = 0.f;
#pragma unroll
        for (int warp = 0; warp < WARPS; warp += 4) {
            const float4 four = load_shared_floats(local + warp * 4);
            magnitude = fmaxf(magnitude, fmaxf(fmaxf(four.x, four.y), fmaxf(four.z, four.w)));
            if constexpr (ZQC_MODE == Mode::RMS_NORM) {
                const float4 squares = load_shared_floats(local + LOCAL_BYTES + warp * 4);
                square += (squares.x + squares.y) + (squares.z + squares.w);
            }
        }
        if constexpr (CLUSTER == 1) return;
        const u32 full = shared.extremes_full(turn), at = place.token() * 4;
        if (place.warp == 0) {
#pragma unroll
            for (int some = 0; some < CLUSTER; some += 4) {
                const int to = some + place.quarter();
                if (to >= CLUSTER) continue;
                Mail::send(to, shared.extremes(turn, share.rank) + at, magnitude, full);
                if constexpr (ZQC_MODE == Mode::RMS_NORM) Mail::send(to, shared.extremes(turn, share.rank) + EXTREMES_BYTES + at, square, full);
            }
        }
        barrier_wait(full, tile >> 1 & 1);
        if (place.warp == 0 && place.lane == 0) Mail::expect(full, EXTREMES * EXTREMES_BYTES);
        magnitude = square = 0.f;
#pragma unroll
        for (int from = 0; from < CLUSTER; ++from) {
            magnitude = fmaxf(magnitude, load_shared_float(shared.extremes(turn, from) + at));
            if constexpr (ZQC_MODE == Mode::RMS_NORM) square += load_shared_float(shared.extremes(turn, from) + EXTREMES_BYTES + at);
        }
    }

    // Codes of vector i.
    DEVICE_MEMBER void convert(int i, float divisor, float reciprocal, u32 (&codes)[2]) {
        if constexpr (CODED) {
            codes[0] = vectors[i].words[0], codes[1] = vectors[i].words[1];
            return;
        }
        float values[VECTOR];
        vectors[i].settle();
        vectors[i].get(values);
        if constexpr (ZQC_MODE == Mode::RMS_NORM) {
            float gamma[VECTOR];
            load_values(x2, 0, column(i), aligned2, gamma);
#pragma unroll
            for (int k = 0; k < VECTOR; ++k) values[k] *= gamma[k];
        }
        codes[0] = four_codes(values, divisor, reciprocal), codes[1] = four_codes(values + 4, divisor, reciprocal);
    }
};
