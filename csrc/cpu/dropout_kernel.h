// Draws dropout masks.
//
// A lane of 64 bits holds one 32-bit word of a Philox counter; its upper half may hold anything, as the
// product that mixes the words reads the lower half only.
#pragma once

#include "kernels.h"
#include "vector.h"

namespace iprm::cpu {
namespace {

typedef uint64_t Wide __attribute__((vector_size(kVectorBytes)));
typedef uint32_t Words __attribute__((vector_size(kVectorBytes)));

constexpr int kWideLanes = kVectorBytes / 8;
constexpr int kChains = 4;  // independent groups of counters, to hide the latency of the rounds
constexpr int64_t kChainWords = 4 * kWideLanes, kWords = kChains * kChainWords;

// Room needed to draw `count` multipliers.
constexpr int64_t multiplier_capacity(int64_t count) { return round_up(count + 3, kWords); }

// The keys of the rounds, the same for all counters of a mask.
struct RoundKeys {
    explicit RoundKeys(uint64_t seed) {
        uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
        for (int round = 0; round < kPhiloxRounds; ++round, k0 += kPhiloxWeyl0, k1 += kPhiloxWeyl1) {
            first[round] = k0;
            second[round] = k1;
        }
    }

    uint64_t first[kPhiloxRounds], second[kPhiloxRounds];
};

// The 64-bit products of the lower halves.
IPRM_INLINE Wide multiply_words(Wide x, uint32_t y) {
#if defined(__AVX512F__)
    return (Wide)_mm512_mul_epu32((__m512i)x, _mm512_set1_epi64(y));
#elif defined(__AVX2__)
    return (Wide)_mm256_mul_epu32((__m256i)x, _mm256_set1_epi64x(y));
#else
    return (x & 0xFFFFFFFFu) * static_cast<uint64_t>(y);
#endif
}

// x[start], y[start], x[start + 1], y[start + 1], ...
// A template of its type too, so that the branches of other sizes are not compiled.
template <int kStart, typename W>
IPRM_INLINE W interleaved(W x, W y) {
    constexpr int n = sizeof(W) / sizeof(uint64_t), s = kStart;
    if constexpr (n == 8) {
        return __builtin_shufflevector(x, y, s, s + n, s + 1, s + n + 1, s + 2, s + n + 2, s + 3, s + n + 3);
    } else if constexpr (n == 4) {
        return __builtin_shufflevector(x, y, s, s + n, s + 1, s + n + 1);
    } else {
        return __builtin_shufflevector(x, y, s, s + n);
    }
}

template <typename T>
IPRM_INLINE void store_multipliers(const DropoutMask& mask, Words words, T* out) {
    const T scale = static_cast<T>(mask.scale);
    if constexpr (sizeof(T) == 4) {
        const auto kept = (words >> 8) >= mask.threshold;
        store(out, kept ? splat<Vec<T>>(scale) : Vec<T>{});
    } else {
        for (int i = 0; i < 2 * kWideLanes; ++i) out[i] = (words[i] >> 8) >= mask.threshold ? scale : T(0);
    }
}

// The multipliers of kCount chains of counters, from those in `blocks` on: kCount * kChainWords.
template <int kCount, typename T>
IPRM_INLINE void draw_chains(const DropoutMask& mask, const RoundKeys& keys, Wide blocks, T* out) {
    Wide c0[kCount], c1[kCount], c2[kCount], c3[kCount];
#pragma GCC unroll 4
    for (int j = 0; j < kCount; ++j) {
        c0[j] = blocks + static_cast<uint64_t>(j * kWideLanes);
        c1[j] = c0[j] >> 32;
        c2[j] = mask.stream - Wide{};
        c3[j] = Wide{};
    }
#pragma GCC unroll 10
    for (int round = 0; round < kPhiloxRounds; ++round) {
#pragma GCC unroll 4
        for (int j = 0; j < kCount; ++j) {
            const Wide p0 = multiply_words(c0[j], kPhiloxMultiplier0), p1 = multiply_words(c2[j], kPhiloxMultiplier1);
            c0[j] = (p1 >> 32) ^ c1[j] ^ keys.first[round];
            c1[j] = p1;
            c2[j] = (p0 >> 32) ^ c3[j] ^ keys.second[round];
            c3[j] = p0;
        }
    }
#pragma GCC unroll 4
    for (int j = 0; j < kCount; ++j) {
        const Wide w01 = (c0[j] & 0xFFFFFFFFu) | c1[j] << 32, w23 = (c2[j] & 0xFFFFFFFFu) | c3[j] << 32;
        T* first = out + j * kChainWords;
        store_multipliers(mask, (Words)interleaved<0>(w01, w23), first);
        store_multipliers(mask, (Words)interleaved<kWideLanes / 2>(w01, w23), first + kChainWords / 2);
    }
}

// The multipliers (0 or 1 / (1 - p)) of elements first .. first + count - 1, somewhere in `buffer`, which has
// room for multiplier_capacity(count).
template <typename T>
IPRM_NOINLINE const T* draw_multipliers(const DropoutMask& mask, int64_t first, int64_t count, T* buffer) {
    const int64_t skipped = first % 4, end = skipped + count;
    const RoundKeys keys(mask.seed);
    Wide blocks;
    for (int i = 0; i < kWideLanes; ++i) blocks[i] = static_cast<uint64_t>(first / 4 + i);
    int64_t i = 0;
    for (; i + kWords / 2 < end; i += kWords, blocks += static_cast<uint64_t>(kWords / 4)) {
        draw_chains<kChains>(mask, keys, blocks, buffer + i);
    }
    for (; i < end; i += kChainWords, blocks += static_cast<uint64_t>(kChainWords / 4)) {
        draw_chains<1>(mask, keys, blocks, buffer + i);
    }
    return buffer + skipped;
}

// out = x * multipliers of elements first .. first + count - 1
template <typename T>
void drop(const DropoutMask& mask, int64_t first, int64_t count, const T* x, T* out) {
    constexpr int64_t chunk = 4 * kWords;
    T buffer[chunk + kWords];
    for (int64_t i = 0; i < count; i += chunk) {
        const int64_t n = smaller(chunk, count - i);
        const T* m = draw_multipliers(mask, first + i, n, buffer);
        for (int64_t j = 0; j < n; ++j) out[i + j] = x[i + j] * m[j];
    }
}

template <typename T>
void dropout(const DropoutArgs<T>& args, int64_t first, int64_t last) {
    constexpr int64_t chunk = 4 * kWords;
    for (int64_t i = first; i < last; i += chunk) {
        const int64_t n = smaller(chunk, last - i);
        const T* x = args.x + i;
        T* out = args.out + i;
        for (int64_t m = 0; m < args.count; ++m, x = out) drop(args.masks[m], i, n, x, out);
        if (args.addend == nullptr) continue;
        for (int64_t j = 0; j < n; ++j) out[j] += args.addend[i + j];
    }
}

}  // namespace
}  // namespace iprm::cpu
