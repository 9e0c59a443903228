#include "ops.h"

namespace iprm::cpu {

const recurrence::Cores kCores{linear,      linear_back,         row_products,       activate,
                               dropout,     formation,           formation_backward, pack,
                               execution,   execution_backward,  execution_simple,   execution_simple_backward,
                               composition, composition_backward};

}  // namespace iprm::cpu
