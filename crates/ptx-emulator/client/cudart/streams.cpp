// Streams, events and captures.
#include "driver.h"

using cudart::run;

extern "C" {

cudaError_t CUDARTAPI cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
    return run([&] { return CU(cuStreamCreate, stream, flags); });
}

cudaError_t CUDARTAPI cudaStreamCreate(cudaStream_t* stream) {
    return cudaStreamCreateWithFlags(stream, 0);
}

cudaError_t CUDARTAPI cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags,
                                                   int priority) {
    return run([&] { return CU(cuStreamCreateWithPriority, stream, flags, priority); });
}

cudaError_t CUDARTAPI cudaStreamDestroy(cudaStream_t stream) {
    return run([&] { return CU(cuStreamDestroy, stream); });
}

cudaError_t CUDARTAPI cudaStreamSynchronize(cudaStream_t stream) {
    return run([&] { return CU(cuStreamSynchronize, stream); });
}

cudaError_t CUDARTAPI cudaStreamQuery(cudaStream_t stream) {
    return run([&] { return CU(cuStreamQuery, stream); });
}

cudaError_t CUDARTAPI cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags) {
    return run([&] { return CU(cuStreamWaitEvent, stream, event, flags); });
}

cudaError_t CUDARTAPI cudaStreamGetFlags(cudaStream_t stream, unsigned* flags) {
    return run([&] { return CU(cuStreamGetFlags, stream, flags); });
}

cudaError_t CUDARTAPI cudaStreamGetPriority(cudaStream_t stream, int* priority) {
    return run([&] { return CU(cuStreamGetPriority, stream, priority); });
}

cudaError_t CUDARTAPI cudaStreamAddCallback(cudaStream_t stream, cudaStreamCallback_t callback,
                                            void* argument, unsigned flags) {
    auto driver = reinterpret_cast<CUstreamCallback>(callback);
    return run([&] { return CU(cuStreamAddCallback, stream, driver, argument, flags); });
}

cudaError_t CUDARTAPI cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function,
                                         void* argument) {
    return run([&] { return CU(cuLaunchHostFunc, stream, function, argument); });
}

cudaError_t CUDARTAPI cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
    return run([&] { return CU(cuEventCreate, event, flags); });
}

cudaError_t CUDARTAPI cudaEventCreate(cudaEvent_t* event) {
    return cudaEventCreateWithFlags(event, 0);
}

cudaError_t CUDARTAPI cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    return run([&] { return CU(cuEventRecord, event, stream); });
}

cudaError_t CUDARTAPI cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream,
                                               unsigned flags) {
    return run([&] { return CU(cuEventRecordWithFlags, event, stream, flags); });
}

cudaError_t CUDARTAPI cudaEventQuery(cudaEvent_t event) {
    return run([&] { return CU(cuEventQuery, event); });
}

cudaError_t CUDARTAPI cudaEventSynchronize(cudaEvent_t event) {
    return run([&] { return CU(cuEventSynchronize, event); });
}

cudaError_t CUDARTAPI cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin,
                                           cudaEvent_t end) {
    return run([&] { return CU(cuEventElapsedTime, milliseconds, begin, end); });
}

cudaError_t CUDARTAPI cudaEventDestroy(cudaEvent_t event) {
    return run([&] { return CU(cuEventDestroy, event); });
}

cudaError_t CUDARTAPI cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
    return run(
        [&] { return CU(cuStreamBeginCapture, stream, static_cast<CUstreamCaptureMode>(mode)); });
}

cudaError_t CUDARTAPI cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
    return run([&] { return CU(cuStreamEndCapture, stream, graph); });
}

cudaError_t CUDARTAPI cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
    return run([&] {
        return CU(cuStreamIsCapturing, stream, reinterpret_cast<CUstreamCaptureStatus*>(status));
    });
}

cudaError_t CUDARTAPI cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
    return run([&] {
        return CU(cuThreadExchangeStreamCaptureMode, reinterpret_cast<CUstreamCaptureMode*>(mode));
    });
}

}  // extern "C"
