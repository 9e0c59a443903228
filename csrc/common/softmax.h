// Conventions of every masked softmax.
#pragma once

namespace iprm {

// Added to masked logits, never put in their place: a fully masked row comes out uniform.
inline constexpr double kMaskBias = -1e30;

}  // namespace iprm
