// Counter-based dropout: Philox-4x32-10 and what names a mask.
//
// Element e of mask `stream` is word e mod 4 of Philox with key (seed mod 2^32, seed div 2^32) and counter
// (e div 4 mod 2^32, e div 4 div 2^32, stream, 0), where stream = 16 * step + role. The element is kept when
// (word >> 8) * 2^-24 >= p and then scaled by 1 / (1 - p).
#pragma once

#include <cmath>
#include <cstdint>

#include "host_device.h"

namespace iprm {

inline constexpr uint32_t kPhiloxMultiplier0 = 0xD2511F53;
inline constexpr uint32_t kPhiloxMultiplier1 = 0xCD9E8D57;
inline constexpr uint32_t kPhiloxWeyl0 = 0x9E3779B9;
inline constexpr uint32_t kPhiloxWeyl1 = 0xBB67AE85;
inline constexpr int kPhiloxRounds = 10;

// One number per dropout site of the mechanism; mirrors `Role` in iprm_kernels/philox.py.
enum class Role : int64_t {
    kFormationHidden = 0,
    kFormationResult = 1,
    kFormationAttention = 2,
    kVisual = 3,
    kResult = 4,
    kVariational = 5,
    kOperation = 6,
    kProduct = 7,
    kExecutionAttention = 8,
    kCompositionProduct = 9,
    kCompositionOperation = 10,
    kCompositionResult = 11,
    kCompositionAttention = 12,
    kOperationHidden = 13,
    kResultHidden = 14,
};

inline constexpr int64_t kRolesPerStep = 16;

struct Philox4 {
    uint32_t word[4];
};

// The four words of block `block` (elements 4 * block to 4 * block + 3) of a mask.
IPRM_HOST_DEVICE inline Philox4 philox(uint64_t seed, uint32_t stream, uint64_t block) {
    uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
    uint32_t c0 = static_cast<uint32_t>(block), c1 = static_cast<uint32_t>(block >> 32), c2 = stream, c3 = 0;
    for (int round = 0; round < kPhiloxRounds; ++round) {
        const uint64_t p0 = static_cast<uint64_t>(kPhiloxMultiplier0) * c0;
        const uint64_t p1 = static_cast<uint64_t>(kPhiloxMultiplier1) * c2;
        c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
        c1 = static_cast<uint32_t>(p1);
        c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
        c3 = static_cast<uint32_t>(p0);
        k0 += kPhiloxWeyl0;
        k1 += kPhiloxWeyl1;
    }
    return {{c0, c1, c2, c3}};
}

// Everything a kernel needs to draw one mask.
struct DropoutMask {
    uint64_t seed = 0;
    uint32_t stream = 0;
    uint32_t threshold = 0;  // kept when (word >> 8) >= threshold; 0 keeps everything
    double scale = 1.0;

    IPRM_HOST_DEVICE bool active() const { return threshold != 0; }
};

// The mask of probability p in [0, 1).
inline DropoutMask make_dropout_mask(uint64_t seed, uint32_t stream, double p) {
    return {seed, stream, static_cast<uint32_t>(std::ceil(p * 16777216.0)), 1.0 / (1.0 - p)};
}

}  // namespace iprm
