// Runs CUDA C++ kernels on the CPU: what platform.cuh declares for the device, and the names of CUDA that the kernels
// use. The toolkit's own headers give the types and the conversions of bfloat16 and half.
//
// Every thread of a block is a fiber; all fibers run in the OS thread that launches, and change places at barriers and
// warp collectives only. What is modelled and what is not: README.md.
#pragma once

#if defined(__CUDACC__)
#    error "cuda_on_host.h is for the host compiler"
#endif

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <driver_types.h>
#include <vector_functions.h>
#include <vector_types.h>

#include <cmath>
#include <cstdint>

#undef __launch_bounds__
#define __launch_bounds__(...)

#include "cuda_on_host/atomics.h"
#include "cuda_on_host/barriers.h"
#include "cuda_on_host/copies.h"
#include "cuda_on_host/launch.h"
#include "cuda_on_host/math.h"
#include "cuda_on_host/tensor_cores.h"
#include "cuda_on_host/warp.h"
