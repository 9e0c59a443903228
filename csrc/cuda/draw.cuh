// Dropout multipliers, drawn in registers: the bits that common/philox.h defines.
#pragma once

#include "../common/philox.h"
#include "kernels.h"

namespace iprm::cuda {

// One dropout site with its seed at hand.
struct Draw {
    uint64_t seed;
    uint32_t stream, threshold;
    float scale;
    int64_t width;

    __device__ bool active() const { return threshold != 0; }
    __device__ float of(uint32_t word) const { return word >> 8 >= threshold ? scale : 0.0f; }
    __device__ Philox4 words(int64_t element) const { return philox(seed, stream, static_cast<uint64_t>(element) / 4); }
};

__device__ inline Draw draw_of(const Drop& drop) {
    const uint64_t seed = drop.threshold != 0 ? static_cast<uint64_t>(*drop.seed) : 0;
    return {seed, drop.stream, drop.threshold, drop.scale, drop.width};
}

// Word `which` of four, by selection: an index would put the words in local memory.
__device__ inline uint32_t word_of(const Philox4& words, int which) {
    const uint32_t low = which & 1 ? words.word[1] : words.word[0];
    const uint32_t high = which & 1 ? words.word[3] : words.word[2];
    return which & 2 ? high : low;
}

// The multiplier of one element; 1 where nothing is dropped.
__device__ inline float multiplier(const Draw& draw, int64_t element) {
    return draw.active() ? draw.of(word_of(draw.words(element), static_cast<int>(element & 3))) : 1.0f;
}

// The multipliers of `Count` elements (a multiple of four) that begin anywhere: Count / 4 draws where they begin at a
// multiple of four, otherwise one more.
template <int Count>
__device__ inline void multipliers(const Draw& draw, int64_t element, float (&m)[Count]) {
    static_assert(Count % 4 == 0, "draws come by four");
    const int skipped = static_cast<int>(element & 3);
    Philox4 here = draw.words(element);
#pragma unroll
    for (int i = 0; i < Count; i += 4) {
        Philox4 next = here;
        if (i + 4 < Count || skipped != 0) next = draw.words(element + i + 4);
        // Words `skipped` to `skipped` + 3 of the two draws, in two shifts.
        uint32_t word[6];
#pragma unroll
        for (int j = 0; j < 6; ++j) {
            const uint32_t close = j < 4 ? here.word[j] : next.word[j - 4];
            const uint32_t far = j < 2 ? here.word[j + 2] : next.word[j - 2];
            word[j] = skipped & 2 ? far : close;
        }
#pragma unroll
        for (int j = 0; j < 4; ++j) m[i + j] = draw.of(skipped & 1 ? word[j + 1] : word[j]);
        here = next;
    }
}

// x ⊙ its multipliers, those from `column` of a row on; x itself where nothing is dropped. What lies beyond the mask's
// columns is padding, and gets some multipliers too.
template <int Count>
__device__ inline void drop_run(const Draw& draw, int64_t row, int64_t column, float (&x)[Count]) {
    if (!draw.active()) return;
    float m[Count];
    multipliers(draw, row * draw.width + column, m);
#pragma unroll
    for (int i = 0; i < Count; ++i) x[i] *= m[i];
}

}  // namespace iprm::cuda
