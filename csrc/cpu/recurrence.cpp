#include <ATen/ops/mm.h>
#include <ATen/ops/sum.h>

#include "../recurrence/run.h"
#include "ops.h"

namespace iprm::cpu {
namespace {

using recurrence::given;
using recurrence::Map;

Tensor written(const Tensor& result, const Tensor& out) {
    if (!out.defined()) return result;
    out.copy_(result);
    return out;
}

Tensor linear_of_map(const Tensor& x, Map& map, const Tensor& c, const Tensor& out) {
    return written(cpu::linear(x, map.weight, given(c)), out);
}

Tensor linear_back_of_map(const Tensor& y, Map& map, const Tensor& c, const Tensor& out) {
    return written(cpu::linear_back(y, map.weight, given(c)), out);
}

Tensor row_product(const Tensor& dy, const Tensor& x, const Tensor& sum) {
    Tensor s = sum;
    return sum.defined() ? s.addmm_(dy.t(), x) : at::mm(dy.t(), x);
}

Tensor row_sum(const Tensor& dy) { return dy.sum(0); }

}  // namespace

const recurrence::Cores kCores{&linear_of_map,
                               &linear_back_of_map,
                               &row_product,
                               &row_sum,
                               &dropout,
                               &formation,
                               &formation_backward,
                               &pack,
                               &execution,
                               &execution_backward,
                               &execution_simple,
                               &execution_simple_backward,
                               &composition,
                               &composition_backward};

}  // namespace iprm::cpu
