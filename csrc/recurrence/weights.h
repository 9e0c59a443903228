// The weights of the recurrence, by the letters of the mechanism, and its options that are not weights. Names and order
// are those of iprm_kernels/steps/weights.py.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <unordered_map>
#include <vector>

namespace iprm::recurrence {

using at::Tensor;

// y = weight x + bias; of a layer norm, its gain and shift.
struct Map {
    Tensor weight;                 // (outputs, inputs); a norm's (D)
    Tensor bias;                   // (outputs)
    Tensor packed, packed_back{};  // the weight as the products of a backend read it, once they have made that

    // The map of some of the inputs, without a copy of its weight.
    Map of_inputs(int64_t first, int64_t count) const { return {weight.narrow(1, first, count), bias, {}, {}}; }
};

// Those of all stages; a map that is not there is switched off.
class Weights {
  public:
    // From weight and bias of each map in turn, and the maps' names, joined by commas.
    Weights(const std::vector<Tensor>& flat, const std::string& names);

    bool has(const std::string& name) const { return maps_.count(name) > 0; }
    Map& operator[](const std::string& name) { return maps_.at(name); }
    // F2 of step t.
    Map& F2(int64_t t) { return F2_.size() > 1 ? F2_[t] : F2_.front(); }
    size_t count_F2() const { return F2_.size(); }
    int64_t reduced() const { return maps_.at("C2").weight.size(0); }
    const std::vector<std::string>& names() const { return names_; }

  private:
    std::unordered_map<std::string, Map> maps_;
    std::vector<Map> F2_;
    std::vector<std::string> names_;
};

struct Activations {
    std::string formation, result_query, execution, op, result;
};

struct Rates {
    double formation, formation_attention, visual, result, operation, product, execution_attention, variational,
        composition_product, composition_value, composition_attention;
};

struct Options {
    // From the plain values of the op's schema.
    Options(int64_t steps, int64_t window, bool mask_self, const std::string& activations,
            const std::vector<double>& rates, const std::vector<double>& epsilons);

    int64_t steps, window;  // T, W
    bool mask_self;
    Activations activations;
    Rates rates;
    std::unordered_map<std::string, double> epsilons;
};

}  // namespace iprm::recurrence
