// Marks functions that both the CPU and the CUDA kernels compile.
#pragma once

#if defined(__CUDACC__)
#    define IPRM_HOST_DEVICE __host__ __device__
#else
#    define IPRM_HOST_DEVICE
#endif
