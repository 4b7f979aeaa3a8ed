// Graphs.
#include "driver.h"

using cudart::run;

namespace {

// The driver's node parameters of a kernel, or why there are none.
cudaError_t kernel_node(CUDA_KERNEL_NODE_PARAMS* driver, const cudaKernelNodeParams& given) {
    CUfunction function;
    cudaError_t error = cudart::find_function(&function, given.func);
    if (error != cudaSuccess) return cudart::keep(error);
    *driver = {};
    driver->func = function;
    driver->gridDimX = given.gridDim.x;
    driver->gridDimY = given.gridDim.y;
    driver->gridDimZ = given.gridDim.z;
    driver->blockDimX = given.blockDim.x;
    driver->blockDimY = given.blockDim.y;
    driver->blockDimZ = given.blockDim.z;
    driver->sharedMemBytes = given.sharedMemBytes;
    driver->kernelParams = given.kernelParams;
    driver->extra = given.extra;
    return cudaSuccess;
}

CUDA_MEMCPY3D plain_copy(void* to, const void* from, size_t bytes) {
    CUDA_MEMCPY3D copy = {};
    copy.srcMemoryType = CU_MEMORYTYPE_UNIFIED;
    copy.srcDevice = cudart::device(from);
    copy.dstMemoryType = CU_MEMORYTYPE_UNIFIED;
    copy.dstDevice = cudart::device(to);
    copy.WidthInBytes = bytes;
    copy.Height = 1;
    copy.Depth = 1;
    return copy;
}

}  // namespace

extern "C" {

cudaError_t CUDARTAPI cudaGraphCreate(cudaGraph_t* graph, unsigned flags) {
    return run([&] { return CU(cuGraphCreate, graph, flags); });
}

cudaError_t CUDARTAPI cudaGraphDestroy(cudaGraph_t graph) {
    return run([&] { return CU(cuGraphDestroy, graph); });
}

cudaError_t CUDARTAPI cudaGraphClone(cudaGraph_t* clone, cudaGraph_t graph) {
    return run([&] { return CU(cuGraphClone, clone, graph); });
}

cudaError_t CUDARTAPI cudaGraphAddKernelNode(cudaGraphNode_t* node, cudaGraph_t graph,
                                             const cudaGraphNode_t* after, size_t count,
                                             const cudaKernelNodeParams* given) {
    CUDA_KERNEL_NODE_PARAMS params;
    cudaError_t error = kernel_node(&params, *given);
    if (error != cudaSuccess) return error;
    return run([&] { return CU(cuGraphAddKernelNode, node, graph, after, count, &params); });
}

cudaError_t CUDARTAPI cudaGraphKernelNodeSetParams(cudaGraphNode_t node,
                                                   const cudaKernelNodeParams* given) {
    CUDA_KERNEL_NODE_PARAMS params;
    cudaError_t error = kernel_node(&params, *given);
    if (error != cudaSuccess) return error;
    return run([&] { return CU(cuGraphKernelNodeSetParams, node, &params); });
}

cudaError_t CUDARTAPI cudaGraphExecKernelNodeSetParams(cudaGraphExec_t executable,
                                                       cudaGraphNode_t node,
                                                       const cudaKernelNodeParams* given) {
    CUDA_KERNEL_NODE_PARAMS params;
    cudaError_t error = kernel_node(&params, *given);
    if (error != cudaSuccess) return error;
    return run([&] { return CU(cuGraphExecKernelNodeSetParams, executable, node, &params); });
}

cudaError_t CUDARTAPI cudaGraphAddMemcpyNode1D(cudaGraphNode_t* node, cudaGraph_t graph,
                                               const cudaGraphNode_t* after, size_t count, void* to,
                                               const void* from, size_t bytes, cudaMemcpyKind) {
    CUDA_MEMCPY3D copy = plain_copy(to, from, bytes);
    return run([&] { return CU(cuGraphAddMemcpyNode, node, graph, after, count, &copy, nullptr); });
}

cudaError_t CUDARTAPI cudaGraphAddMemsetNode(cudaGraphNode_t* node, cudaGraph_t graph,
                                             const cudaGraphNode_t* after, size_t count,
                                             const cudaMemsetParams* given) {
    CUDA_MEMSET_NODE_PARAMS params = {};
    params.dst = cudart::device(given->dst);
    params.pitch = given->pitch;
    params.value = given->value;
    params.elementSize = given->elementSize;
    params.width = given->width;
    params.height = given->height;
    return run(
        [&] { return CU(cuGraphAddMemsetNode, node, graph, after, count, &params, nullptr); });
}

cudaError_t CUDARTAPI cudaGraphAddHostNode(cudaGraphNode_t* node, cudaGraph_t graph,
                                           const cudaGraphNode_t* after, size_t count,
                                           const cudaHostNodeParams* given) {
    CUDA_HOST_NODE_PARAMS params = {given->fn, given->userData};
    return run([&] { return CU(cuGraphAddHostNode, node, graph, after, count, &params); });
}

cudaError_t CUDARTAPI cudaGraphAddEmptyNode(cudaGraphNode_t* node, cudaGraph_t graph,
                                            const cudaGraphNode_t* after, size_t count) {
    return run([&] { return CU(cuGraphAddEmptyNode, node, graph, after, count); });
}

cudaError_t CUDARTAPI cudaGraphAddChildGraphNode(cudaGraphNode_t* node, cudaGraph_t graph,
                                                 const cudaGraphNode_t* after, size_t count,
                                                 cudaGraph_t child) {
    return run([&] { return CU(cuGraphAddChildGraphNode, node, graph, after, count, child); });
}

#if CUDART_VERSION >= 13000
cudaError_t CUDARTAPI cudaGraphAddDependencies(cudaGraph_t graph, const cudaGraphNode_t* from,
                                               const cudaGraphNode_t* to,
                                               const cudaGraphEdgeData* edges, size_t count) {
    auto driver = reinterpret_cast<const CUgraphEdgeData*>(edges);
    return run([&] { return CU(cuGraphAddDependencies, graph, from, to, driver, count); });
}
#else
cudaError_t CUDARTAPI cudaGraphAddDependencies(cudaGraph_t graph, const cudaGraphNode_t* from,
                                               const cudaGraphNode_t* to, size_t count) {
    return run([&] { return CU(cuGraphAddDependencies, graph, from, to, count); });
}
#endif

cudaError_t CUDARTAPI cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t* nodes, size_t* count) {
    return run([&] { return CU(cuGraphGetNodes, graph, nodes, count); });
}

cudaError_t CUDARTAPI cudaGraphNodeGetType(cudaGraphNode_t node, cudaGraphNodeType* type) {
    return run(
        [&] { return CU(cuGraphNodeGetType, node, reinterpret_cast<CUgraphNodeType*>(type)); });
}

cudaError_t CUDARTAPI cudaGraphInstantiateWithFlags(cudaGraphExec_t* executable, cudaGraph_t graph,
                                                    unsigned long long flags) {
    return run([&] { return CU(cuGraphInstantiateWithFlags, executable, graph, flags); });
}

cudaError_t CUDARTAPI cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph,
                                           unsigned long long flags) {
    return cudaGraphInstantiateWithFlags(executable, graph, flags);
}

cudaError_t CUDARTAPI cudaGraphExecUpdate(cudaGraphExec_t executable, cudaGraph_t graph,
                                          cudaGraphExecUpdateResultInfo* info) {
    static_assert(sizeof *info == sizeof(CUgraphExecUpdateResultInfo), "the driver's structure");
    auto driver = reinterpret_cast<CUgraphExecUpdateResultInfo*>(info);
    return run([&] { return CU(cuGraphExecUpdate, executable, graph, driver); });
}

cudaError_t CUDARTAPI cudaGraphUpload(cudaGraphExec_t executable, cudaStream_t stream) {
    return run([&] { return CU(cuGraphUpload, executable, stream); });
}

cudaError_t CUDARTAPI cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
    return run([&] { return CU(cuGraphLaunch, executable, stream); });
}

cudaError_t CUDARTAPI cudaGraphExecDestroy(cudaGraphExec_t executable) {
    return run([&] { return CU(cuGraphExecDestroy, executable); });
}

}  // extern "C"
