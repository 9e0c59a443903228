// What the device says of itself.
#include <string.h>

#include "stub.h"

int attribute(int which) {
    switch (which) {
        case cudaDevAttrMaxThreadsPerBlock:
        case cudaDevAttrMaxBlockDimX:
        case cudaDevAttrMaxBlockDimY:
            return BLOCK_THREADS;
        case cudaDevAttrMaxBlockDimZ:
            return 64;
        case cudaDevAttrMaxGridDimX:
            return 0x7fffffff;
        case cudaDevAttrMaxGridDimY:
        case cudaDevAttrMaxGridDimZ:
            return 65535;
        case cudaDevAttrMaxSharedMemoryPerBlock:
            return BLOCK_SHARED;
        case cudaDevAttrMaxSharedMemoryPerBlockOptin:
            return BLOCK_SHARED_OPTIN;
        case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
            return PROCESSOR_SHARED;
        case cudaDevAttrReservedSharedMemoryPerBlock:
            return RESERVED_SHARED;
        case cudaDevAttrWarpSize:
            return WARP;
        case cudaDevAttrMaxRegistersPerBlock:
        case cudaDevAttrMaxRegistersPerMultiprocessor:
            return REGISTERS;
        case cudaDevAttrMaxThreadsPerMultiProcessor:
            return PROCESSOR_THREADS;
        case cudaDevAttrMaxBlocksPerMultiprocessor:
            return 32;
        case cudaDevAttrMultiProcessorCount:
            return PROCESSORS;
        case cudaDevAttrL2CacheSize:
            return L2_BYTES;
        case cudaDevAttrComputeCapabilityMajor:
            return CAPABILITY_MAJOR;
        case cudaDevAttrComputeCapabilityMinor:
            return CAPABILITY_MINOR;
        case cudaDevAttrConcurrentKernels:
        case cudaDevAttrUnifiedAddressing:
        case cudaDevAttrCooperativeLaunch:
            return 1;
        default:
            return 0;
    }
}

int resident_blocks(int threads, size_t shared) {
    int by_threads = PROCESSOR_THREADS / threads;
    int by_shared = PROCESSOR_SHARED / (int)(shared + RESERVED_SHARED);
    return by_threads < by_shared ? by_threads : by_shared;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp* properties, int device) {
    *properties = (struct cudaDeviceProp){
        .name = "stub H100",
        .totalGlobalMem = MEMORY_BYTES,
        .major = CAPABILITY_MAJOR,
        .minor = CAPABILITY_MINOR,
        .multiProcessorCount = PROCESSORS,
        .warpSize = WARP,
        .maxThreadsPerBlock = BLOCK_THREADS,
        .maxThreadsDim = {BLOCK_THREADS, BLOCK_THREADS, 64},
        .maxGridSize = {0x7fffffff, 65535, 65535},
        .maxThreadsPerMultiProcessor = PROCESSOR_THREADS,
        .maxBlocksPerMultiProcessor = 32,
        .regsPerBlock = REGISTERS,
        .regsPerMultiprocessor = REGISTERS,
        .sharedMemPerBlock = BLOCK_SHARED,
        .sharedMemPerBlockOptin = BLOCK_SHARED_OPTIN,
        .sharedMemPerMultiprocessor = PROCESSOR_SHARED,
        .reservedSharedMemPerBlock = RESERVED_SHARED,
        .l2CacheSize = L2_BYTES,
        .totalConstMem = 64 << 10,
        .textureAlignment = 512,
        .concurrentKernels = 1,
        .cooperativeLaunch = 1,
        .unifiedAddressing = 1,
    };
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, enum cudaDeviceAttr which, int device) {
    *value = attribute(which);
    return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int* number) {
    *number = 1;
    return cudaSuccess;
}

cudaError_t cudaGetDevice(int* device) {
    *device = 0;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) { return device ? cudaErrorInvalidDevice : cudaSuccess; }
cudaError_t cudaGetLastError(void) { return cudaSuccess; }
cudaError_t cudaPeekAtLastError(void) { return cudaSuccess; }

cudaError_t cudaDriverGetVersion(int* version) {
    *version = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
    *least = 0;
    *greatest = -5;
    return cudaSuccess;
}

cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned version,
                                             unsigned long long flags, enum cudaDriverEntryPointQueryResult* found) {
    *function = NULL;
    if (found) *found = cudaDriverEntryPointSymbolNotFound;
    return cudaSuccess;
}
