// A CUDA device that counts what it is asked to run and runs nothing.
//
// Loaded before all other libraries (LD_PRELOAD), these functions stand in front of those of the CUDA runtime and of
// cuBLAS that PyTorch and compiled extensions call, and of the driver's that Triton calls; the library bears the
// driver's name. What it does not serve falls through to the real runtime, which finds no driver and says so.
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>
#include <stddef.h>

_Static_assert(CUDART_VERSION / 1000 == 13, "the calls and structures are those of CUDA 13");

// How often one thing was asked for. Kinds: "launch" (its name is the kernel's), "copy", "set", "wait", "memory".
typedef struct Counter {
    const char *kind, *name;
    long count;
    struct Counter* next;  // of those that are not zero
} Counter;

// While a stream is captured nothing counts: the graph's launches do.
void count(Counter* counter);

// Counts one thing, under a name that is a literal.
#define COUNT(kind, name)                      \
    do {                                       \
        static Counter counter = {kind, name}; \
        count(&counter);                       \
    } while (0)

// A kernel's handle, in the runtime and in the driver, is a pointer to its counter.
Counter* new_kernel(const char* name);

// The stream that is captured, NULL where none is.
extern cudaStream_t captured;

// The device: an H100.
enum {
    CAPABILITY_MAJOR = 9,
    CAPABILITY_MINOR = 0,
    PROCESSORS = 132,
    WARP = 32,
    BLOCK_THREADS = 1024,
    PROCESSOR_THREADS = 2048,
    REGISTERS = 65536,
    BLOCK_SHARED = 48 << 10,
    BLOCK_SHARED_OPTIN = 227 << 10,
    PROCESSOR_SHARED = 228 << 10,
    RESERVED_SHARED = 1 << 10,
    L2_BYTES = 50 << 20,
};
#define MEMORY_BYTES ((size_t)80 << 30)

// Its attributes: the runtime and the driver number them alike.
int attribute(int which);

// Blocks of so many threads and so many bytes of shared memory that one processor holds.
int resident_blocks(int threads, size_t shared);
