// What tests read of the shim beside the ops, through ctypes.
#include "platform.cuh"

#define IPRM_EXPORT extern "C" __attribute__((visibility("default")))

using namespace iprm::cuda;

namespace {

__global__ void race(int* out) { out[0] = static_cast<int>(threadIdx.x); }
__global__ void overflow(int* out) { out[threadIdx.x] = 1; }

}  // namespace

// Launches, and blocks of them, since the module was loaded.
IPRM_EXPORT uint64_t iprm_on_host_launches() { return on_host::state.launches; }
IPRM_EXPORT uint64_t iprm_on_host_blocks() { return on_host::state.blocks_run; }

// Bugs, to see that the sanitizers find them in a module too, and fail the process.
IPRM_EXPORT int iprm_on_host_race() {
    int out = 0;
    return launch(race, dim3(1), 32, {}, nullptr, &out);
}
IPRM_EXPORT int iprm_on_host_overflow() {
    const auto out = std::make_unique<int[]>(31);
    return launch(overflow, dim3(1), 32, {}, nullptr, out.get());
}
