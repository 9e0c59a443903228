// The activations of the mechanism, by number. The kernels of each device implement them.
#pragma once

namespace iprm {

enum class Activation { kIdentity, kTanh, kElu, kRelu, kGelu, kSigmoid };

inline constexpr const char* kActivationNames[] = {"identity", "tanh", "elu", "relu", "gelu", "sigmoid"};
inline constexpr int kActivationCount = 6;

}  // namespace iprm
