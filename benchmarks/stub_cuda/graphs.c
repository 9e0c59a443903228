// One stream at a time is captured. A graph holds nothing: launching it is what counts.
#include "stub.h"

cudaStream_t captured;
static unsigned long long captures;
static char handle;

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode) {
    if (captured) return cudaErrorStreamCaptureUnsupported;
    captured = stream;
    captures++;
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
    captured = NULL;
    *graph = (cudaGraph_t)&handle;
    return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus* status) {
    *status = captured && stream == captured ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return cudaSuccess;
}

cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, enum cudaStreamCaptureStatus* status, unsigned long long* id,
                                     cudaGraph_t* graph, const cudaGraphNode_t** dependencies,
                                     const cudaGraphEdgeData** edges, size_t* number) {
    if (id) *id = captures;
    if (graph) *graph = (cudaGraph_t)&handle;
    if (number) *number = 0;
    return cudaStreamIsCapturing(stream, status);
}

cudaError_t cudaThreadExchangeStreamCaptureMode(enum cudaStreamCaptureMode* mode) { return cudaSuccess; }

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t* nodes, size_t* number) {
    *number = 1;  // torch warns of graphs without any
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* made, cudaGraph_t graph, unsigned long long flags) {
    *made = (cudaGraphExec_t)&handle;
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return cudaSuccess; }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t made) { return cudaSuccess; }

cudaError_t cudaGraphLaunch(cudaGraphExec_t made, cudaStream_t stream) {
    COUNT("launch", "CUDA graph");
    return cudaSuccess;
}
