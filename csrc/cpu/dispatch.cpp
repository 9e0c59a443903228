#include "dispatch.h"

#include <ATen/Version.h>

#include <cstdlib>
#include <string>

#if defined(IPRM_AMX)
#    include <cpuid.h>
#    include <sys/syscall.h>
#    include <unistd.h>
#endif

namespace iprm::cpu {

extern const KernelTable kernels_default;
#if defined(__x86_64__)
extern const KernelTable kernels_avx2, kernels_avx512;
#endif

#if defined(IPRM_AMX)
extern const KernelTable kernels_amx;

// Whether the processor has AMX for bfloat16 and Linux lets this process use it; it wants to be asked. IPRM_CPU_AMX=0
// forbids it.
static bool amx_granted() {
    const char* wanted = std::getenv("IPRM_CPU_AMX");
    if (wanted != nullptr && std::string(wanted) == "0") return false;
    unsigned a, b, c, d;
    constexpr unsigned tiles_and_bfloat16 = 1u << 24 | 1u << 22;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & tiles_and_bfloat16) != tiles_and_bfloat16) return false;
    constexpr long request_permission = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
}
#endif

const KernelTable& kernel_table() {
    static const KernelTable& table = []() -> const KernelTable& {
#if defined(__x86_64__)
        const std::string capability = at::get_cpu_capability();
#    if defined(IPRM_AMX)
        if (capability == "AVX512" && amx_granted()) return kernels_amx;
#    endif
        if (capability == "AVX512") return kernels_avx512;
        if (capability == "AVX2") return kernels_avx2;
#endif
        return kernels_default;
    }();
    return table;
}

}  // namespace iprm::cpu
