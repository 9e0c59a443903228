#include "ops.h"

namespace iprm::cpu {

const recurrence::Cores kCores{linear,      linear_back,         row_products,       activate,
                               dropout,     formation,           formation_backward, pack,
                               execution,   execution_backward,  execution_simple,   execution_simple_backward,
                               composition, composition_backward};

static recurrence::Cores with_bfloat16_execution() {
    recurrence::Cores cores = kCores;
    cores.pack = bfloat16::pack;
    cores.execution = bfloat16::execution;
    cores.execution_backward = bfloat16::execution_backward;
    return cores;
}

const recurrence::Cores kBfloat16Cores = with_bfloat16_execution();

}  // namespace iprm::cpu
