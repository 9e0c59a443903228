// Device memory is host memory. Copies between host and device are made, so that what goes up comes down again; those
// within the device, and settings, are counted alone.
#include <stdlib.h>
#include <string.h>

#include "stub.h"

// Pages are given on first touch: what no one writes to takes no memory.
static cudaError_t allocated(void** at, size_t bytes) {
    *at = calloc(bytes ? bytes : 1, 1);
    return *at ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t cudaMalloc(void** at, size_t bytes) {
    COUNT("memory", "allocate");
    return allocated(at, bytes);
}

cudaError_t cudaFree(void* at) {
    if (at) COUNT("memory", "free");
    free(at);
    return cudaSuccess;
}

cudaError_t cudaHostAlloc(void** at, size_t bytes, unsigned flags) { return allocated(at, bytes); }

cudaError_t cudaFreeHost(void* at) {
    free(at);
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t* unused, size_t* total) {
    *unused = *total = MEMORY_BYTES;
    return cudaSuccess;
}

// Asked by torch whether host memory is pinned; none is.
cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes* attributes, const void* at) {
    *attributes = (struct cudaPointerAttributes){.type = cudaMemoryTypeUnregistered};
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, enum cudaMemcpyKind kind, cudaStream_t stream) {
    switch (kind) {
        case cudaMemcpyHostToDevice:
            COUNT("copy", "copy host to device");
            break;
        case cudaMemcpyDeviceToHost:
            COUNT("copy", "copy device to host");
            break;
        default:
            COUNT("copy", "copy device to device");
            return cudaSuccess;
    }
    memcpy(to, from, bytes);
    return cudaSuccess;
}

cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, enum cudaMemcpyKind kind) {
    if (captured) return cudaErrorStreamCaptureUnsupported;
    COUNT("wait", "cudaMemcpy");
    return cudaMemcpyAsync(to, from, bytes, kind, NULL);
}

cudaError_t cudaMemsetAsync(void* at, int value, size_t bytes, cudaStream_t stream) {
    COUNT("set", "memory set");
    return cudaSuccess;
}

cudaError_t cudaMemset(void* at, int value, size_t bytes) { return cudaMemsetAsync(at, value, bytes, NULL); }
