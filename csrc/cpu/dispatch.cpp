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
        if (capability == "AVX512") return kernels_avx512;
        if (capability == "AVX2") return kernels_avx2;
#endif
        return kernels_default;
    }();
    return table;
}

static bool has_avx512() { return at::get_cpu_capability() == "AVX512"; }

const KernelTable& matrix_table() {
#if defined(IPRM_AMX)
    static const KernelTable& table = has_avx512() && amx_granted() ? kernels_amx : kernel_table();
    return table;
#else
    return kernel_table();
#endif
}

#if defined(IPRM_BFLOAT16)
extern const KernelTable kernels_avx512_bf16;

static bool is_amd() {
    unsigned a, b, c, d;
    return __get_cpuid(0, &a, &b, &c, &d) && b == signature_AMD_ebx && c == signature_AMD_ecx;
}

// AMX multiplies sixteen times as many bfloat16 numbers in a second as the vector units multiply float32 ones, AMD's
// vector units twice as many. Intel's multiply half as many: there they are used where they are asked for.
static const KernelTable* best_of_bfloat16() {
    const std::string wanted = switched("IPRM_CPU_BFLOAT16");
    unsigned a, b, c, d;
    constexpr unsigned avx512_bf16 = 1u << 5;
    if (!has_avx512() || wanted == "0" || !__get_cpuid_count(7, 1, &a, &b, &c, &d)) return nullptr;
    if ((a & avx512_bf16) == 0) return nullptr;
#    if defined(IPRM_AMX)
    if (&matrix_table() == &kernels_amx) return &kernels_amx_bf16;
#    endif
    return wanted == "1" || is_amd() ? &kernels_avx512_bf16 : nullptr;
}
#endif

const KernelTable* bfloat16_table() {
#if defined(IPRM_BFLOAT16)
    static const KernelTable* const table = best_of_bfloat16();
    return table;
#else
    return nullptr;
#endif
}

}  // namespace iprm::cpu
