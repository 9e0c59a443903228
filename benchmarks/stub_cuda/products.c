// The products that torch asks of cuBLAS: each counts as one launch, under the function's name. (The real library takes
// a second one where it splits a sum.) cuBLASLt's descriptors need no device, so those stay the real ones.
//
// A function that looks at no argument declares none: the caller takes its arguments away again. So the library's
// headers, which want half of the toolkit's, are not needed.
#include "stub.h"

#define PRODUCT(function)           \
    int function(void) {            \
        COUNT("launch", #function); \
        return 0;                   \
    }

#define DONE(function) \
    int function(void) { return 0; }

PRODUCT(cublasSgemm_v2)
PRODUCT(cublasSgemmStridedBatched)
PRODUCT(cublasSgemmEx)
PRODUCT(cublasGemmEx)
PRODUCT(cublasGemmStridedBatchedEx)
PRODUCT(cublasSgemv_v2)
PRODUCT(cublasSdot_v2)
PRODUCT(cublasDotEx)
PRODUCT(cublasLtMatmul)

DONE(cublasDestroy_v2)
DONE(cublasSetStream_v2)
DONE(cublasSetWorkspace_v2)
DONE(cublasSetMathMode)
DONE(cublasSetPointerMode_v2)
DONE(cublasSetSmCountTarget)

int cublasCreate_v2(void** created) {
    static char handle;
    *created = &handle;
    return 0;
}

int cublasGetMathMode(void* handle, int* mode) {
    *mode = 0;
    return 0;
}

int cublasGetPointerMode_v2(void* handle, int* mode) {
    *mode = 0;
    return 0;
}

int cublasLtMatmulAlgoGetHeuristic(void* handle, void* product, void* a, void* b, void* c, void* d, void* preference,
                                   int most, void* results, int* found) {
    *found = 1;
    return 0;
}
