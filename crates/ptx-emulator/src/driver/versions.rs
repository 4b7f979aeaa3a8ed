//! Which CUDA version brought each form of an entry point (cudaTypedefs.h of CUDA 13.0). A number
//! is 1000 * major + 10 * minor.

/// Entry points by the version that a program must be written for to get them.
#[rustfmt::skip]
pub(super) const ALL: &[(i32, &[&str])] = &[
    (2_000, &["cuCtxGetDevice", "cuCtxSynchronize", "cuDeviceComputeCapability", "cuDeviceGet",
        "cuDeviceGetAttribute", "cuDeviceGetCount", "cuDeviceGetName", "cuEventCreate", "cuEventElapsedTime",
        "cuEventQuery", "cuEventRecord", "cuEventSynchronize", "cuInit", "cuMemFreeHost", "cuModuleGetFunction",
        "cuModuleLoad", "cuModuleLoadData", "cuModuleLoadFatBinary", "cuModuleUnload", "cuStreamCreate",
        "cuStreamQuery", "cuStreamSynchronize"]),
    (2_010, &["cuModuleLoadDataEx"]),
    (2_020, &["cuDriverGetVersion", "cuFuncGetAttribute", "cuMemHostAlloc"]),
    (2_030, &["cuMemHostGetFlags"]),
    (3_000, &["cuFuncSetCacheConfig", "cuGetExportTable"]),
    (3_010, &["cuCtxGetLimit", "cuCtxSetLimit"]),
    (3_020, &["cuCtxCreate_v2", "cuCtxGetApiVersion", "cuCtxGetCacheConfig", "cuCtxSetCacheConfig",
        "cuDeviceTotalMem_v2", "cuMemAllocHost_v2", "cuMemAllocPitch_v2", "cuMemAlloc_v2", "cuMemFree_v2",
        "cuMemGetAddressRange_v2", "cuMemGetInfo_v2", "cuMemHostGetDevicePointer_v2", "cuMemcpy2DAsync_v2",
        "cuMemcpy2DUnaligned_v2", "cuMemcpy2D_v2", "cuMemcpy3DAsync_v2", "cuMemcpy3D_v2", "cuMemcpyDtoDAsync_v2",
        "cuMemcpyDtoD_v2", "cuMemcpyDtoHAsync_v2", "cuMemcpyDtoH_v2", "cuMemcpyHtoDAsync_v2", "cuMemcpyHtoD_v2",
        "cuMemsetD16Async", "cuMemsetD16_v2", "cuMemsetD2D16Async", "cuMemsetD2D16_v2", "cuMemsetD2D32Async",
        "cuMemsetD2D32_v2", "cuMemsetD2D8Async", "cuMemsetD2D8_v2", "cuMemsetD32Async", "cuMemsetD32_v2",
        "cuMemsetD8Async", "cuMemsetD8_v2", "cuModuleGetGlobal_v2", "cuStreamWaitEvent"]),
    (4_000, &["cuCtxDestroy_v2", "cuCtxDisablePeerAccess", "cuCtxEnablePeerAccess", "cuCtxGetCurrent",
        "cuCtxPopCurrent_v2", "cuCtxPushCurrent_v2", "cuCtxSetCurrent", "cuDeviceCanAccessPeer",
        "cuEventDestroy_v2", "cuLaunchKernel", "cuMemHostUnregister", "cuMemcpy", "cuMemcpy3DPeer",
        "cuMemcpy3DPeerAsync", "cuMemcpyAsync", "cuMemcpyPeer", "cuMemcpyPeerAsync", "cuPointerGetAttribute",
        "cuProfilerStart", "cuProfilerStop", "cuStreamDestroy_v2"]),
    (4_010, &["cuDeviceGetByPCIBusId", "cuDeviceGetPCIBusId"]),
    (4_020, &["cuCtxGetSharedMemConfig", "cuCtxSetSharedMemConfig", "cuFuncSetSharedMemConfig"]),
    (5_000, &["cuStreamAddCallback"]),
    (5_050, &["cuCtxGetStreamPriorityRange", "cuStreamCreateWithPriority", "cuStreamGetFlags",
        "cuStreamGetPriority"]),
    (6_000, &["cuGetErrorName", "cuGetErrorString", "cuMemAllocManaged", "cuStreamAttachMemAsync"]),
    (6_050, &["cuMemHostRegister_v2", "cuOccupancyMaxActiveBlocksPerMultiprocessor",
        "cuOccupancyMaxPotentialBlockSize"]),
    (7_000, &["cuCtxGetFlags", "cuDevicePrimaryCtxGetState", "cuDevicePrimaryCtxRetain",
        "cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags", "cuOccupancyMaxPotentialBlockSizeWithFlags",
        "cuPointerGetAttributes"]),
    (8_000, &["cuDeviceGetP2PAttribute", "cuStreamBatchMemOp", "cuStreamWaitValue32", "cuStreamWriteValue32"]),
    (9_000, &["cuFuncSetAttribute", "cuLaunchCooperativeKernel", "cuStreamWaitValue64", "cuStreamWriteValue64"]),
    (9_020, &["cuDeviceGetUuid", "cuStreamGetCtx"]),
    (10_000, &["cuDestroyExternalMemory", "cuDeviceGetLuid", "cuExternalMemoryGetMappedBuffer",
        "cuGraphAddChildGraphNode", "cuGraphAddDependencies", "cuGraphAddEmptyNode", "cuGraphAddHostNode",
        "cuGraphAddKernelNode", "cuGraphAddMemcpyNode", "cuGraphAddMemsetNode", "cuGraphChildGraphNodeGetGraph",
        "cuGraphClone", "cuGraphCreate", "cuGraphDestroy", "cuGraphDestroyNode", "cuGraphExecDestroy",
        "cuGraphGetEdges", "cuGraphGetNodes", "cuGraphGetRootNodes", "cuGraphHostNodeGetParams",
        "cuGraphHostNodeSetParams", "cuGraphKernelNodeGetParams", "cuGraphKernelNodeSetParams", "cuGraphLaunch",
        "cuGraphMemcpyNodeGetParams", "cuGraphMemcpyNodeSetParams", "cuGraphMemsetNodeGetParams",
        "cuGraphMemsetNodeSetParams", "cuGraphNodeFindInClone", "cuGraphNodeGetDependencies",
        "cuGraphNodeGetDependentNodes", "cuGraphNodeGetType", "cuGraphRemoveDependencies",
        "cuImportExternalMemory", "cuLaunchHostFunc", "cuStreamEndCapture", "cuStreamIsCapturing"]),
    (10_010, &["cuGraphExecKernelNodeSetParams", "cuStreamBeginCapture_v2", "cuThreadExchangeStreamCaptureMode"]),
    (10_020, &["cuGraphExecHostNodeSetParams", "cuGraphExecMemcpyNodeSetParams", "cuGraphExecMemsetNodeSetParams",
        "cuGraphExecUpdate", "cuOccupancyAvailableDynamicSMemPerBlock"]),
    (11_000, &["cuCtxResetPersistingL2Cache", "cuDevicePrimaryCtxRelease_v2", "cuDevicePrimaryCtxReset_v2",
        "cuDevicePrimaryCtxSetFlags_v2", "cuFuncGetModule", "cuGraphInstantiate_v2",
        "cuGraphKernelNodeCopyAttributes", "cuGraphKernelNodeGetAttribute", "cuGraphKernelNodeSetAttribute",
        "cuStreamCopyAttributes", "cuStreamGetAttribute", "cuStreamSetAttribute"]),
    (11_010, &["cuEventRecordWithFlags", "cuGraphAddEventRecordNode", "cuGraphAddEventWaitNode",
        "cuGraphEventRecordNodeGetEvent", "cuGraphEventRecordNodeSetEvent", "cuGraphEventWaitNodeGetEvent",
        "cuGraphEventWaitNodeSetEvent", "cuGraphExecEventRecordNodeSetEvent", "cuGraphExecEventWaitNodeSetEvent",
        "cuGraphUpload"]),
    (11_020, &["cuDeviceGetDefaultMemPool", "cuDeviceGetMemPool", "cuDeviceSetMemPool", "cuMemAllocAsync",
        "cuMemAllocFromPoolAsync", "cuMemFreeAsync", "cuMemPoolCreate", "cuMemPoolDestroy", "cuMemPoolGetAccess",
        "cuMemPoolGetAttribute", "cuMemPoolSetAccess", "cuMemPoolSetAttribute", "cuMemPoolTrimTo"]),
    (11_030, &["cuGetProcAddress", "cuGraphReleaseUserObject", "cuGraphRetainUserObject",
        "cuStreamGetCaptureInfo_v2", "cuUserObjectCreate", "cuUserObjectRelease", "cuUserObjectRetain"]),
    (11_040, &["cuCtxCreate_v3", "cuDeviceGetUuid_v2", "cuGraphInstantiateWithFlags"]),
    (11_060, &["cuGraphNodeGetEnabled", "cuGraphNodeSetEnabled", "cuLaunchKernelEx"]),
    (11_070, &["cuGraphAddBatchMemOpNode", "cuGraphBatchMemOpNodeSetParams", "cuGraphExecBatchMemOpNodeSetParams",
        "cuModuleGetLoadingMode", "cuOccupancyMaxActiveClusters", "cuOccupancyMaxPotentialClusterSize",
        "cuStreamBatchMemOp_v2", "cuStreamWaitValue32_v2", "cuStreamWaitValue64_v2", "cuStreamWriteValue32_v2",
        "cuStreamWriteValue64_v2"]),
    (12_000, &["cuCtxGetId", "cuGetProcAddress_v2", "cuGraphAddKernelNode_v2", "cuGraphExecGetFlags",
        "cuGraphExecKernelNodeSetParams_v2", "cuGraphExecUpdate_v2", "cuGraphInstantiateWithParams",
        "cuGraphKernelNodeGetParams_v2", "cuGraphKernelNodeSetParams_v2", "cuKernelGetAttribute",
        "cuKernelGetFunction", "cuKernelSetAttribute", "cuKernelSetCacheConfig", "cuLibraryGetGlobal",
        "cuLibraryGetKernel", "cuLibraryGetManaged", "cuLibraryGetModule", "cuLibraryGetUnifiedFunction",
        "cuLibraryLoadData", "cuLibraryLoadFromFile", "cuLibraryUnload", "cuStreamGetId", "cuTensorMapEncodeTiled",
        "cuTensorMapReplaceAddress"]),
    (12_010, &["cuCtxSetFlags"]),
    (12_020, &["cuGraphAddNode", "cuGraphExecNodeSetParams", "cuGraphNodeSetParams", "cuMemAdvise_v2",
        "cuMemPrefetchAsync_v2"]),
    (12_030, &["cuFuncGetName", "cuGraphAddDependencies_v2", "cuGraphAddNode_v2", "cuGraphGetEdges_v2",
        "cuGraphNodeGetDependencies_v2", "cuGraphNodeGetDependentNodes_v2", "cuGraphRemoveDependencies_v2",
        "cuKernelGetName", "cuStreamGetCaptureInfo_v3"]),
    (12_040, &["cuFuncGetParamInfo", "cuFuncIsLoaded", "cuFuncLoad", "cuKernelGetParamInfo",
        "cuLibraryEnumerateKernels", "cuLibraryGetKernelCount", "cuModuleEnumerateFunctions",
        "cuModuleGetFunctionCount"]),
    (12_050, &["cuCtxCreate_v4", "cuKernelGetLibrary", "cuStreamGetCtx_v2"]),
    (12_080, &["cuEventElapsedTime_v2", "cuStreamGetDevice"]),
    (13_000, &["cuCtxGetDevice_v2", "cuCtxSynchronize_v2", "cuMemGetDefaultMemPool", "cuMemGetMemPool",
        "cuMemSetMemPool"]),
];

/// Names that a header maps to an entry point of another name.
const RENAMED: &[(i32, &str, &str)] =
    &[(12_000, "cuGraphInstantiate", "cuGraphInstantiateWithFlags")];

/// The forms of an entry point: `cuMemAlloc` is `cuMemAlloc_v2` since 3.2.
pub(super) fn forms(name: &str) -> impl Iterator<Item = (i32, &'static str)> {
    let versioned = ALL
        .iter()
        .flat_map(|&(since, symbols)| symbols.iter().map(move |&symbol| (since, symbol)));
    let renamed = RENAMED
        .iter()
        .filter(move |(_, old, _)| *old == name)
        .map(|&(since, _, symbol)| (since, symbol));
    versioned
        .filter(move |(_, symbol)| base(symbol) == name)
        .chain(renamed)
}

/// An entry point's name without its version.
fn base(symbol: &str) -> &str {
    ["_v2", "_v3", "_v4"]
        .iter()
        .find_map(|suffix| symbol.strip_suffix(suffix))
        .unwrap_or(symbol)
}
