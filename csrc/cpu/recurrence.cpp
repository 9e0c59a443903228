#include "ops.h"

namespace iprm::cpu {
namespace {

template <Factors kFactors>
constexpr recurrence::Cores kCoresOf{linear<kFactors>,
                                     linear_back<kFactors>,
                                     row_products<kFactors>,
                                     activate,
                                     dropout,
                                     formation,
                                     formation_backward,
                                     pack<kFactors>,
                                     execution<kFactors>,
                                     execution_backward<kFactors>,
                                     execution_simple,
                                     execution_simple_backward,
                                     composition,
                                     composition_backward};

}  // namespace

const recurrence::Cores kCores = kCoresOf<Factors::kOfInputs>, kBfloat16Cores = kCoresOf<Factors::kBfloat16>;

}  // namespace iprm::cpu
