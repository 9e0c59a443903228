#include "../recurrence/run.h"
#include "ops.h"

namespace iprm::cpu {
namespace {

using recurrence::given;
using recurrence::Map;

Tensor linear_of_map(const Tensor& x, Map& map, const Tensor& c, const Tensor& out) {
    return cpu::linear(x, map.weight, given(c), &map.packed, given(out));
}

Tensor linear_back_of_map(const Tensor& y, Map& map, const Tensor& c, const Tensor& out) {
    return cpu::linear_back(y, map.weight, given(c), &map.packed_back, given(out));
}

Tensor product_of_rows(const Tensor& dy, const Tensor& x, const Tensor& sum) { return row_product(dy, x, given(sum)); }

}  // namespace

const recurrence::Cores kCores{&linear_of_map, &linear_back_of_map,  &product_of_rows,    &row_sum,
                               &dropout_to,    &formation,           &formation_backward, &pack,
                               &execution,     &execution_backward,  &execution_simple,   &execution_simple_backward,
                               &composition,   &composition_backward};

}  // namespace iprm::cpu
