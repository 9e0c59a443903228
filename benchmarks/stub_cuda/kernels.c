// Kernels that nvcc compiled. Each library registers its own by the address of a host function, as it is loaded, and
// launches them by that address or by the handle that the runtime gives for it.
#include <stdint.h>
#include <stdlib.h>

#include "stub.h"

// Host functions and their kernels, in an open hash table that is never more than half full.
static struct Entry {
    const void* function;
    Counter* kernel;
}* table;
static size_t capacity, used;

static struct Entry* slot(const void* function) {
    size_t i = ((uintptr_t)function >> 4) * 0x9e3779b97f4a7c15u;
    for (;; i++) {
        struct Entry* entry = &table[i & (capacity - 1)];
        if (!entry->function || entry->function == function) return entry;
    }
}

static void grow(void) {
    struct Entry* old = table;
    size_t old_capacity = capacity;
    capacity = capacity ? 2 * capacity : 1 << 12;
    table = calloc(capacity, sizeof *table);
    for (size_t i = 0; i < old_capacity; i++)
        if (old[i].function) *slot(old[i].function) = old[i];
    free(old);
}

// A launch names a host function, or the handle of a kernel, which is in no table.
static Counter* kernel_of(const void* function) {
    struct Entry* entry = table ? slot(function) : NULL;
    return entry && entry->function ? entry->kernel : (Counter*)function;
}

void** __cudaRegisterFatBinary(void* image) {
    static void* handle;
    return &handle;
}

void __cudaRegisterFatBinaryEnd(void** handle) {}
void __cudaUnregisterFatBinary(void** handle) {}

void __cudaRegisterVar(void** handle, char* variable, char* address, const char* name, int external, size_t bytes,
                       int constant, int global) {}

void __cudaRegisterFunction(void** handle, const char* function, char* device_function, const char* name, int threads,
                            uint3* tid, uint3* bid, dim3* block, dim3* grid, int* warp) {
    if (2 * (used + 1) > capacity) grow();
    struct Entry* entry = slot(function);
    if (!entry->function) used++;
    *entry = (struct Entry){function, new_kernel(name)};
}

// A launch in <<< >>> leaves its configuration here for the host function, which takes it up.
unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, cudaStream_t stream) { return 0; }

cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
    *grid = *block = (dim3){1, 1, 1};
    *shared = 0;
    *(cudaStream_t*)stream = NULL;
    return cudaSuccess;
}

cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* function) {
    *kernel = (cudaKernel_t)kernel_of(function);
    return cudaSuccess;
}

static cudaError_t launched(const void* function) {
    count(kernel_of(function));
    return cudaSuccess;
}

cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** arguments, size_t shared,
                               cudaStream_t stream) {
    return launched(kernel);
}

cudaError_t cudaLaunchKernel(const void* function, dim3 grid, dim3 block, void** arguments, size_t shared,
                             cudaStream_t stream) {
    return launched(function);
}

cudaError_t cudaLaunchCooperativeKernel(const void* function, dim3 grid, dim3 block, void** arguments, size_t shared,
                                        cudaStream_t stream) {
    return launched(function);
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* function, void** arguments) {
    return launched(function);
}

cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes* attributes, const void* function) {
    *attributes = (struct cudaFuncAttributes){
        .maxThreadsPerBlock = BLOCK_THREADS,
        .numRegs = 32,
        .binaryVersion = 10 * CAPABILITY_MAJOR + CAPABILITY_MINOR,
        .ptxVersion = 10 * CAPABILITY_MAJOR + CAPABILITY_MINOR,
    };
    return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void* function, enum cudaFuncAttribute which, int value) { return cudaSuccess; }

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, const void* function, int threads,
                                                                   size_t shared, unsigned flags) {
    *blocks = resident_blocks(threads, shared);
    return cudaSuccess;
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void* function, int threads,
                                                          size_t shared) {
    return cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, function, threads, shared, 0);
}
