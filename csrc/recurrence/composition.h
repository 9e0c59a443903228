// 3. Operation composition: write to memory, compare with the recent past. Mirrors iprm_kernels/steps/composition.py.
#pragma once

#include <deque>
#include <map>
#include <tuple>

#include "run.h"

namespace iprm::recurrence {

// What the K states of one step are as columns of a window, (B, K, D) each: keys, and the values of O and of E.
struct Columns {
    Tensor key, operation, result;
};

// o_k = LN?( Uo [ phi_o(z_k) ; O_k ] ), likewise e_k; then O_k <- LN?( sum_j a_kj drop_upd(Vo o_j) + So o_k ).
//
// A memory stands in the windows of up to W steps. What its columns are is made once, when it first stands in one, and
// kept; their gradients are summed over those steps, and carried to the memory at the first of them.
class Composition {
  public:
    explicit Composition(Run& run);

    // -> O, E of the next step (B, K, D), attention (B, K, columns), undefined without composition.
    std::tuple<Tensor, Tensor, Tensor> forward(int64_t t, const Tensor& z, const Tensor& r, const Tensor& O,
                                               const Tensor& E);
    // From the gradients of the attention and of the next step's memory: those of z, r, O and E.
    std::tuple<Tensor, Tensor, Tensor, Tensor> backward(int64_t t, const Tensor& a, const Tensor& da, const Tensor& dO,
                                                        const Tensor& dE);
    void gradients(Gradients& gradients) const;

  private:
    using Pair = std::pair<Tensor, Tensor>;
    // [left ; right] as two maps of the halves, without a joined copy.
    struct Halves {
        Map left, right;
    };
    enum class When { kPast, kNow };  // the memory before the step, or the states o, e of it

    Pair update(const Tensor& z, const Tensor& r, const Tensor& O, const Tensor& E);
    Product joined(Halves& halves, const Tensor& left, const Tensor& right, const std::string& name,
                   const std::string& norm);
    Tensor normed(const Tensor& state, const std::string& name, const std::string& norm);
    std::tuple<Tensor, Tensor, Tensor, Tensor> update_back(int64_t t, const Parts& o, const Parts& e, Parts O, Parts E);
    Halves halves_of(const std::string& name) const;

    Tensor folded(const Tensor& q);
    void query_back(int64_t t, const Tensor& d_query, const Tensor& d_gate, Parts& o);

    Columns columns(const Tensor& O, const Tensor& E, Products& products);
    int64_t place(When when, int64_t t) const;
    Columns kept_columns(When when, int64_t t) const;
    void columns_back(When when, int64_t t, const Columns& d, Parts& O, Parts& E);
    void column_back(const std::string& name, bool projected, When when, int64_t t, const Tensor& d, Parts& state);
    int64_t first_of_window(int64_t t) const { return std::max<int64_t>(0, t - run_.o.window + 1); }

    Product write(const std::string& V, const std::string& S, const Tensor& pooled, const Tensor& a,
                  const Tensor& state, int64_t t);
    Pair write_back(const std::string& V, const std::string& S, int64_t t, const Tensor& dy, const Tensor& a,
                    const Tensor& da, Parts& state);
    Site attention_site(int64_t t) const {
        return {run_.o.rates.composition_attention, Role::kCompositionAttention, t};
    }

    Gradient projected_gradient(const std::string& name, const Tensor& now, const Tensor& past) const;
    Gradient folded_gradient() const;

    Run& run_;
    bool updates_, composes_;
    bool drops_values_;   // then they are projected before they are pooled
    bool projects_keys_;  // because their product with the query is dropped
    bool folds_;          // (c . q) . (Ko o_j + b) = (Ko^T (c . q)) . o_j + a number that does not depend on j
    Halves Uo_, Ur_;
    Tensor c_, gate_;
    std::deque<Columns> past_;           // of the memories before this step, most recent first
    std::map<int64_t, Columns> d_past_;  // by step, the gradients of the columns of the memory before it
};

}  // namespace iprm::recurrence
