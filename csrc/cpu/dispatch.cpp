#include "dispatch.h"

#include <ATen/Version.h>

#include <string>

namespace iprm::cpu {

extern const KernelTable kernels_default;
#if defined(__x86_64__)
extern const KernelTable kernels_avx2, kernels_avx512;
#endif

const KernelTable& kernel_table() {
    static const KernelTable& table = []() -> const KernelTable& {
#if defined(__x86_64__)
        const std::string capability = at::get_cpu_capability();
        if (capability == "AVX512") return kernels_avx512;
        if (capability == "AVX2") return kernels_avx2;
#endif
        return kernels_default;
    }();
    return table;
}

}  // namespace iprm::cpu
