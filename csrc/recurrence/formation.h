// 1. Operation formation: what to look for, from language. Mirrors iprm_kernels/steps/formation.py.
#pragma once

#include "run.h"

namespace iprm::recurrence {

// q_k = F2 drop(phi_l(F1 O_k)),  z_k = LN?( sum_j a_kj x_j ).
class Formation {
  public:
    // X: language tokens (B, L, D).  mask: (B, L) bool, which the backward does not need.
    Formation(Run& run, const Tensor& X, OptionalTensor mask, bool need_tokens);

    // -> z (B, K, D), attention (B, K, L).
    std::pair<Tensor, Tensor> forward(int64_t t, const Tensor& O, const Tensor& E);
    // From the gradients of the attention and of z, and what is known of O's and E's: those of O and E.
    std::pair<Tensor, Tensor> backward(int64_t t, const Tensor& a, const Tensor& da, const Tensor& dz, const Tensor& dO,
                                       const Tensor& dE);
    // Those of the maps but F2, and those of F2, one or one for each step.
    void gradients(Gradients& gradients, std::vector<Gradient>& of_F2) const;

  private:
    Tensor query(int64_t t, const Tensor& O, const Tensor& E);
    std::pair<Tensor, Tensor> query_back(int64_t t, const Tensor& dq, const Tensor& dO, const Tensor& dE);
    Site of_operation(int64_t t) const { return {run_.o.rates.formation, Role::kFormationHidden, t}; }
    Site of_result(int64_t t) const { return {run_.o.rates.formation, Role::kFormationResult, t}; }
    std::vector<Gradient> F2_gradients() const;

    Run& run_;
    Tensor X_;
    OptionalTensor mask_;
    bool need_tokens_;
    Tensor f_;
};

}  // namespace iprm::recurrence
