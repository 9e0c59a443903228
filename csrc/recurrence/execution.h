// 2. Operation execution: look at the picture, guided by the new operation and the prior result. Mirrors
// iprm_kernels/steps/execution.py.
#pragma once

#include <memory>
#include <tuple>

#include "run.h"

namespace iprm::recurrence {

// What a step looks at: x~ (B, N, D) and its keys, (B, N, R) each: v and u = C1b v + c1, or kappa of the simple form.
struct Look {
    Tensor x;
    Tensors keys;
};

// r_k = LN?( sum_n a_kn (Wv x~_n) ): what both forms of execution share; `Full` and `Simple` have keys and logits.
//
// Without visual dropout the keys do not depend on the step: they are made once, and kept. With it every step makes its
// own; its backward makes x~ again, and the keys too unless all steps' are kept.
class Execution {
  public:
    // V: visual tokens (B, N, D).  mask: (B, N) bool, which the backward does not need.
    Execution(Run& run, const Tensor& V, OptionalTensor mask, bool need_tokens);
    virtual ~Execution() = default;

    // -> r (B, K, D), attention (B, K, N).
    std::pair<Tensor, Tensor> forward(int64_t t, const Tensor& z, const Tensor& E);
    // From the gradients of the attention and of r, and what is known of z's and E's: those of z and E.
    std::pair<Tensor, Tensor> backward(int64_t t, const Tensor& a, const Tensor& da, const Tensor& dr, const Tensor& dz,
                                       const Tensor& dE);
    // What is left to do when all steps are through.
    void finish();
    // Weight and bias gradients, by name; here of the maps that both forms have.
    virtual void gradients(Gradients& gradients) const;

  protected:
    using Attended = std::tuple<Tensor, Tensor>;
    using Back = std::tuple<Tensor, Tensor, Look>;

    // The names that the keys are kept under, and whether their gradients are asked for.
    virtual std::vector<std::string> names_of_keys() const = 0;
    virtual bool needs_maps_of_keys() const = 0;
    bool needs_keys() const { return need_tokens_ || needs_maps_of_keys(); }
    // x~ with its keys, which are written to the places that are given.
    virtual Look look(const Tensor& x, const Tensors& places) = 0;
    // Adds up the gradients of V and of the maps that make the keys.
    virtual void look_back(const Look& look, const Look& d, const Sites& sites) = 0;
    // -> sum_n a_kn x~_n (B, K, D), attention (B, K, N).
    virtual Attended attend(int64_t t, const Look& look, const Tensor& z, const Tensor& E) = 0;
    // -> the gradients of z, of E and of what was looked at.
    virtual Back attend_back(int64_t t, const Look& look, const Tensor& a, const Tensor& d_pooled, const Tensor& da,
                             const Tensor& dz, const Tensor& dE) = 0;

    // The gradient of V from those of first x~ and of x~.
    void tokens_back(Map& first, const Tensor& d, const Tensor& dx, const Sites& sites);

    Site attention_site(int64_t t) const { return {run_.o.rates.execution_attention, Role::kExecutionAttention, t}; }
    Site operation_site(int64_t t) const { return {run_.o.rates.operation, Role::kOperation, t}; }
    // vdrop has one mask for all steps.
    Site variational_site() const { return {run_.o.rates.variational, Role::kVariational, 0}; }
    Sites result_sites(int64_t t) const { return {variational_site(), {run_.o.rates.result, Role::kResult, t}}; }

    Run& run_;
    Tensor V_;
    OptionalTensor mask_;
    bool need_tokens_;
    Tensor w_;

  private:
    Sites visual_sites(int64_t t) const { return {{run_.o.rates.visual, Role::kVisual, t}}; }
    Look look_once();
    // x~ with the keys of that place, if they were kept; otherwise they are made, there if a backward follows.
    Look with_keys(const Tensor& x, int64_t place);
    // x~ of step t with its keys.
    Look tokens(int64_t t);
    void sum_up(const Look& d);

    bool once_;  // all steps look at the same
    Look same_;
};

// The form that the weights are for.
std::unique_ptr<Execution> execution_of(Run& run, const Tensor& V, OptionalTensor mask, bool need_tokens);

}  // namespace iprm::recurrence
