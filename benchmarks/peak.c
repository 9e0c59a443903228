// The most multiply-adds of float32 that a core can do: as many independent sums as hide their latency, all in
// registers.
#include <stdint.h>

#if defined(__AVX512F__)
enum { kWidth = 16, kSums = 24 };  // of 32 registers
#elif defined(__AVX__)
enum { kWidth = 8, kSums = 12 };  // of 16
#else
enum { kWidth = 4, kSums = 12 };
#endif

typedef float Vector __attribute__((vector_size(kWidth * sizeof(float))));

// Does `repeats` times a multiply-add of every sum; the operations, two for each number. `seed` keeps the compiler from
// knowing the numbers, `out` from leaving them out.
int64_t multiply_add(int64_t repeats, float seed, float* out) {
    Vector sums[kSums], factor, addend;
    for (int i = 0; i < kWidth; ++i) {
        factor[i] = 1.0f - seed;
        addend[i] = seed;
    }
    for (int s = 0; s < kSums; ++s) sums[s] = addend * (float)s;
    for (int64_t i = 0; i < repeats; ++i) {
#pragma GCC unroll 24
        for (int s = 0; s < kSums; ++s) sums[s] = sums[s] * factor + addend;
    }
    for (int s = 0; s < kSums; ++s) *out += sums[s][0];
    return repeats * kSums * kWidth * 2;
}
