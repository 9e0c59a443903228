// The few calls of the CUDA runtime that launch code makes, as the toolkit declares them.
#pragma once

#include <cuda_runtime_api.h>

#include <cstring>

#include "state.h"

namespace on_host {
inline cudaError_t last_error = cudaSuccess;

inline cudaError_t report(cudaError_t error) {
    if (error != cudaSuccess) last_error = error;
    return error;
}
}  // namespace on_host

extern "C" {

inline const char* cudaGetErrorName(cudaError_t error) {
    switch (error) {
        case cudaSuccess:
            return "cudaSuccess";
        case cudaErrorInvalidValue:
            return "cudaErrorInvalidValue";
        case cudaErrorInvalidConfiguration:
            return "cudaErrorInvalidConfiguration";
        default:
            return "another cudaError_t";
    }
}
inline const char* cudaGetErrorString(cudaError_t error) {
    switch (error) {
        case cudaSuccess:
            return "no error";
        case cudaErrorInvalidValue:
            return "invalid argument";
        case cudaErrorInvalidConfiguration:
            return "invalid configuration argument";
        default:
            return "another error";
    }
}
inline cudaError_t cudaPeekAtLastError() { return on_host::last_error; }
inline cudaError_t cudaGetLastError() {
    const cudaError_t error = on_host::last_error;
    on_host::last_error = cudaSuccess;
    return error;
}
inline cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t) {
    std::memset(memory, value, bytes);
    return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t) {
    std::memcpy(to, from, bytes);
    return cudaSuccess;
}
inline cudaError_t cudaGetDevice(int* device) {
    *device = 0;
    return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
    const on_host::Settings settings = on_host::settings_of_environment();
    switch (attribute) {
        case cudaDevAttrMultiProcessorCount:
            *value = static_cast<int>(settings.processors);
            return cudaSuccess;
        case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
            *value = static_cast<int>(settings.shared_bytes);
            return cudaSuccess;
        default:
            return cudaErrorInvalidValue;
    }
}

}  // extern "C"
