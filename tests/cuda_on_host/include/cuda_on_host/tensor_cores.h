// ldmatrix and mma.m16n8k16 with the fragment layouts of platform.cuh. Products are summed in float32, in order of k:
// how tensor cores round is not modelled.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "copies.h"
#include "warp.h"

namespace on_host {

inline constexpr int kRows = 8, kMatrices = 4;  // of ldmatrix .x4

// Lane i's address is that of row i % 8 of matrix i / 8.
struct Rows {
    const void* mine;
    const uint16_t* all[kMatrices][kRows];
};

ON_HOST_RUNTIME inline void exchange_rows(Rows& rows, const char* what, const Location& at) {
    together(kFullMask, what, &rows, at, [](void** arguments, unsigned lanes) ON_HOST_RUNTIME {
        for (unsigned to = 0; to < kWarpSize; ++to) {
            if (!(lanes >> to & 1)) continue;
            for (unsigned l = 0; l < kWarpSize; ++l) {
                const void* row = lanes >> l & 1 ? static_cast<Rows*>(arguments[l])->mine : nullptr;
                static_cast<Rows*>(arguments[to])->all[l / kRows][l % kRows] = static_cast<const uint16_t*>(row);
            }
        }
    });
}

// Each lane reads the elements that it gets itself: without a barrier after the stores, TSan sees it.
inline void load_rows(uint32_t (&r)[kMatrices], const void* row, bool transposed, const char* what,
                      const Location& at) {
    if (!aligned(row, 16)) fail(std::string(what) + ": the row is not aligned to 16 bytes", at);
    Rows rows{row, {}};
    exchange_rows(rows, what, at);
    const unsigned g = lane() / 4, t = lane() % 4;
    for (int m = 0; m < kMatrices; ++m) {
        const auto& matrix = rows.all[m];
        const uint32_t low = transposed ? matrix[2 * t][g] : matrix[g][2 * t];
        const uint32_t high = transposed ? matrix[2 * t + 1][g] : matrix[g][2 * t + 1];
        r[m] = low | high << 16;
    }
}

template <class T>
float element(uint32_t pair, unsigned half);
template <>
inline float element<__nv_bfloat16>(uint32_t pair, unsigned half) {
    const uint32_t bits = half ? pair & 0xffff0000u : pair << 16;
    float value;
    __builtin_memcpy(&value, &bits, sizeof value);
    return value;
}
template <>
inline float element<__half>(uint32_t pair, unsigned half) {
    const auto bits = static_cast<uint16_t>(half ? pair >> 16 : pair);
    _Float16 value;
    __builtin_memcpy(&value, &bits, sizeof value);
    return static_cast<float>(value);
}

struct Fragments {
    float* d;
    const uint32_t *a, *b;
};

// d += a b for the whole warp; the lanes' registers are gathered, multiplied as matrices and handed back.
template <class T>
ON_HOST_RUNTIME void multiply_fragments(void** arguments, unsigned) {
    float a[16][16], b[16][8];
    for (unsigned l = 0; l < kWarpSize; ++l) {
        const auto& lane = *static_cast<Fragments*>(arguments[l]);
        const unsigned g = l / 4, t = l % 4;
        for (unsigned h = 0; h < 2; ++h) {
            a[g][2 * t + h] = element<T>(lane.a[0], h);
            a[g + 8][2 * t + h] = element<T>(lane.a[1], h);
            a[g][2 * t + 8 + h] = element<T>(lane.a[2], h);
            a[g + 8][2 * t + 8 + h] = element<T>(lane.a[3], h);
            b[2 * t + h][g] = element<T>(lane.b[0], h);
            b[2 * t + 8 + h][g] = element<T>(lane.b[1], h);
        }
    }
    for (unsigned l = 0; l < kWarpSize; ++l) {
        auto& lane = *static_cast<Fragments*>(arguments[l]);
        for (unsigned i = 0; i < 4; ++i) {
            const unsigned row = l / 4 + (i < 2 ? 0 : 8), column = 2 * (l % 4) + i % 2;
            float sum = lane.d[i];
            for (unsigned k = 0; k < 16; ++k) sum += a[row][k] * b[k][column];
            lane.d[i] = sum;
        }
    }
}

}  // namespace on_host

namespace iprm::cuda {

inline void load_matrices(uint32_t (&r)[4], const void* row, on_host::Location at = on_host::Location::current()) {
    on_host::load_rows(r, row, false, "load_matrices", at);
}
inline void load_matrices_transposed(uint32_t (&r)[4], const void* row,
                                     on_host::Location at = on_host::Location::current()) {
    on_host::load_rows(r, row, true, "load_matrices_transposed", at);
}

template <class T>
void multiply_add(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                  on_host::Location at = on_host::Location::current()) {
    on_host::Fragments mine{d, a, b};
    on_host::together(on_host::kFullMask, "multiply_add", &mine, at, on_host::multiply_fragments<T>);
}

}  // namespace iprm::cuda
