#include "weights.h"

#include <sstream>

namespace iprm::recurrence {
namespace {

std::vector<std::string> split(const std::string& joined) {
    std::vector<std::string> parts;
    std::istringstream in(joined);
    for (std::string part; std::getline(in, part, ',');) parts.push_back(part);
    return parts;
}

void expect_count(const char* name, size_t got, size_t expected) {
    TORCH_CHECK_VALUE(got == expected, name, ": expected ", expected, " values, got ", got);
}

Activations activations_of(const std::string& joined) {
    const auto names = split(joined);
    expect_count("activations", names.size(), 5);
    return {names[0], names[1], names[2], names[3], names[4]};
}

Rates rates_of(const std::vector<double>& p) {
    expect_count("rates", p.size(), 11);
    return {p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7], p[8], p[9], p[10]};
}

std::unordered_map<std::string, double> epsilons_of(const std::vector<double>& e) {
    expect_count("epsilons", e.size(), 6);
    return {{"formation_norm", e[0]}, {"execution_norm", e[1]},     {"update_norm_o", e[2]},
            {"update_norm_r", e[3]},  {"composition_norm_o", e[4]}, {"composition_norm_r", e[5]}};
}

}  // namespace

Weights::Weights(const std::vector<Tensor>& flat, const std::string& names) : names_(split(names)) {
    expect_count("weights", flat.size(), 2 * names_.size());
    for (size_t i = 0; i < names_.size(); ++i) {
        const Map map{flat[2 * i], flat[2 * i + 1], {}, {}};
        if (names_[i] == "F2") {
            F2_.push_back(map);
        } else {
            maps_.emplace(names_[i], map);
        }
    }
}

Options::Options(int64_t steps, int64_t window, bool mask_self, const std::string& activations,
                 const std::vector<double>& rates, const std::vector<double>& epsilons)
    : steps(steps),
      window(window),
      mask_self(mask_self),
      activations(activations_of(activations)),
      rates(rates_of(rates)),
      epsilons(epsilons_of(epsilons)) {}

}  // namespace iprm::recurrence
