#include "dispatch.h"

#include <ATen/Version.h>

#include <cstdlib>
#include <string>

#if defined(__x86_64__)
#    include <cpuid.h>
#endif
#if defined(IPRM_AMX)
#    include <sys/syscall.h>
#    include <unistd.h>
#endif

namespace iprm::cpu {

// The value of an environment variable, empty where it is not set.
[[maybe_unused]] static std::string switched(const char* variable) {
    const char* wanted = std::getenv(variable);
    return wanted == nullptr ? "" : wanted;
}

extern const KernelTable kernels_default;
#if defined(__x86_64__)
extern const KernelTable kernels_avx2, kernels_avx512;
#endif

#if defined(IPRM_AMX)
extern const KernelTable kernels_amx;
#    if defined(IPRM_BFLOAT16)
extern const KernelTable kernels_amx_bf16;
#    endif

// Whether the processor has AMX for bfloat16 and Linux lets this process use it; it wants to be asked. IPRM_CPU_AMX=0
// forbids it.
static bool amx_granted() {
    if (switched("IPRM_CPU_AMX") == "0") return false;
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

#if defined(IPRM_BFLOAT16)
extern const KernelTable kernels_avx512_bf16;

static bool is_amd() {
    unsigned a, b, c, d;
    return __get_cpuid(0, &a, &b, &c, &d) && b == signature_AMD_ebx && c == signature_AMD_ecx;
}

// The table whose products over tiles are of bfloat16 numbers, where the processor has them, and it pays or is asked
// for. AMX multiplies sixteen times as many of them in a second as of float32 ones, AMD's processors twice as many.
// Intel's, apart from their matrix unit, half as many.
static const KernelTable* table_of_bfloat16() {
    const std::string wanted = switched("IPRM_CPU_BFLOAT16");
    if (at::get_cpu_capability() != "AVX512" || wanted == "0") return nullptr;
    unsigned a, b, c, d;
    constexpr unsigned avx512_bf16 = 1u << 5;
    if (!__get_cpuid_count(7, 1, &a, &b, &c, &d) || (a & avx512_bf16) == 0) return nullptr;
#    if defined(IPRM_AMX)
    if (&kernel_table() == &kernels_amx) return &kernels_amx_bf16;
#    endif
    return wanted == "1" || is_amd() ? &kernels_avx512_bf16 : nullptr;
}
#endif

const KernelTable& bfloat16_table() {
#if defined(IPRM_BFLOAT16)
    static const KernelTable* table = table_of_bfloat16();
    if (table != nullptr) return *table;
#endif
    return kernel_table();
}

}  // namespace iprm::cpu
