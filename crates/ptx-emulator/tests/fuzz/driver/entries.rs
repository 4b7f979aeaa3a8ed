//! The entry points that are called, and what each of their arguments is.

use std::ffi::CStr;

/// What a handle stands for.
#[derive(Clone, Copy)]
pub enum Kind {
    Context,
    Module,
    Function,
    Stream,
    Event,
    Graph,
    Executable,
    Node,
    Pool,
    Library,
    Kernel,
    UserObject,
}
use Kind::*;
pub const KINDS: usize = 12;

/// What an argument is.
#[derive(Clone, Copy)]
pub enum Arg {
    /// Mostly a live handle of this kind; else one of another kind, a dead or a made up one.
    Handle(Kind),
    /// As `Handle`; if the call succeeds, the handle is dead.
    Doomed(Kind),
    /// A small or extreme number, mostly small: a size, a flag, an enumerator.
    Number,
    /// The device ordinal, mostly 0.
    Device,
    /// Inside, at the edge or outside of device memory.
    Address,
    /// Host bytes: as many as a copy that the driver allows can take.
    Bytes,
    /// Room for results, or null.
    Out,
    /// Room for a handle, which is kept if the call succeeds.
    NewHandle(Kind),
    /// Room for a device address, which is kept.
    NewAddress,
    /// Room for the address of host memory, which is kept.
    NewHost,
    /// What `NewHost` gave, or other host bytes.
    HostMemory,
    /// Bytes that an allocation takes: few, or too many.
    Allocation,
    /// An address that a copy tells apart by its range: on the device or valid on the host.
    Unified,
    /// Bytes to copy where both ends may be on the host.
    Few,
    /// A name.
    Name,
    /// A module's image.
    Image,
    /// One size of a grid or a block.
    Extent,
    /// The array of pointers to a kernel's parameters, or null.
    Parameters,
    /// The list of a kernel's parameters as one buffer, or null.
    Extra,
    /// `CUlaunchConfig`.
    Config,
    /// `CUDA_KERNEL_NODE_PARAMS`.
    NodeParameters,
    /// `CUDA_MEMCPY2D`.
    Rows,
    /// `CUDA_MEMCPY3D`.
    Layers,
    /// `CUDA_MEMSET_NODE_PARAMS`.
    FillParameters,
    /// `CUDA_HOST_NODE_PARAMS`.
    CallParameters,
    /// `CUgraphNodeParams`, without pointers.
    AnyParameters,
    /// Nodes that another waits for, and how many.
    Nodes,
    NodeCount,
    /// A host function, or null.
    Callback,
    /// A null pointer.
    Null,
}
use Arg::*;

#[rustfmt::skip]
pub const CALLS: &[(&CStr, &[Arg])] = &[
    (c"cuInit", &[Number]), (c"cuDriverGetVersion", &[Out]), (c"cuDeviceGetCount", &[Out]), (c"cuDeviceGet", &[Out, Device]),
    (c"cuDeviceGetName", &[Bytes, Few, Device]), (c"cuDeviceTotalMem", &[Out, Device]),
    (c"cuDeviceGetAttribute", &[Out, Number, Device]), (c"cuDeviceGetUuid", &[Out, Device]),
    (c"cuDeviceGetPCIBusId", &[Bytes, Few, Device]), (c"cuDeviceComputeCapability", &[Out, Out, Device]),
    (c"cuDeviceCanAccessPeer", &[Out, Device, Device]), (c"cuDeviceGetDefaultMemPool", &[NewHandle(Pool), Device]),
    (c"cuDeviceGetMemPool", &[NewHandle(Pool), Device]), (c"cuDeviceSetMemPool", &[Device, Handle(Pool)]),
    (c"cuDevicePrimaryCtxRetain", &[NewHandle(Context), Device]), (c"cuDevicePrimaryCtxRelease", &[Device]),
    (c"cuDevicePrimaryCtxReset", &[Device]), (c"cuDevicePrimaryCtxGetState", &[Device, Out, Out]),
    (c"cuDevicePrimaryCtxSetFlags", &[Device, Number]), (c"cuCtxCreate", &[NewHandle(Context), Null, Number, Device]),
    (c"cuCtxDestroy", &[Doomed(Context)]), (c"cuCtxSetCurrent", &[Handle(Context)]), (c"cuCtxGetCurrent", &[Out]),
    (c"cuCtxPushCurrent", &[Handle(Context)]), (c"cuCtxPopCurrent", &[Out]), (c"cuCtxGetDevice", &[Out, Handle(Context)]),
    (c"cuCtxSynchronize", &[Handle(Context)]), (c"cuCtxGetFlags", &[Out]), (c"cuCtxSetFlags", &[Number]),
    (c"cuCtxGetLimit", &[Out, Number]), (c"cuCtxSetLimit", &[Number, Number]), (c"cuCtxGetCacheConfig", &[Out]),
    (c"cuCtxSetCacheConfig", &[Number]), (c"cuCtxGetStreamPriorityRange", &[Out, Out]),
    (c"cuCtxGetApiVersion", &[Handle(Context), Out]), (c"cuCtxGetId", &[Handle(Context), Out]),
    (c"cuModuleLoadData", &[NewHandle(Module), Image]), (c"cuModuleUnload", &[Doomed(Module)]),
    (c"cuModuleGetFunction", &[NewHandle(Function), Handle(Module), Name]), (c"cuModuleGetFunction", &[NewHandle(Function), Handle(Module), Name]),
    (c"cuModuleGetGlobal", &[NewAddress, Out, Handle(Module), Name]), (c"cuModuleGetFunctionCount", &[Out, Handle(Module)]),
    (c"cuModuleEnumerateFunctions", &[NewHandle(Function), Few, Handle(Module)]), (c"cuModuleGetLoadingMode", &[Out]),
    (c"cuModuleLoad", &[NewHandle(Module), Name]),
    (c"cuFuncGetAttribute", &[Out, Number, Handle(Function)]), (c"cuFuncSetAttribute", &[Handle(Function), Number, Number]),
    (c"cuFuncSetCacheConfig", &[Handle(Function), Number]), (c"cuFuncGetModule", &[Out, Handle(Function)]), (c"cuFuncGetName", &[Out, Handle(Function)]),
    (c"cuFuncGetParamInfo", &[Handle(Function), Number, Out, Out]), (c"cuFuncIsLoaded", &[Out, Handle(Function)]), (c"cuFuncLoad", &[Handle(Function)]),
    (c"cuOccupancyMaxActiveBlocksPerMultiprocessor", &[Out, Handle(Function), Number, Number]),
    (c"cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags", &[Out, Handle(Function), Number, Number, Number]),
    (c"cuOccupancyAvailableDynamicSMemPerBlock", &[Out, Handle(Function), Number, Number]),
    (c"cuMemAlloc", &[NewAddress, Allocation]), (c"cuMemFree", &[Address]), (c"cuMemGetInfo", &[Out, Out]),
    (c"cuMemGetAddressRange", &[Out, Out, Address]), (c"cuMemHostAlloc", &[NewHost, Allocation, Number]),
    (c"cuMemAllocHost", &[NewHost, Allocation]), (c"cuMemFreeHost", &[HostMemory]),
    (c"cuPointerGetAttribute", &[Out, Number, Address]), (c"cuMemAllocManaged", &[NewAddress, Allocation, Number]),
    (c"cuMemAllocAsync", &[NewAddress, Allocation, Handle(Stream)]), (c"cuMemFreeAsync", &[Address, Handle(Stream)]),
    (c"cuMemAllocFromPoolAsync", &[NewAddress, Allocation, Handle(Pool), Handle(Stream)]),
    (c"cuMemPoolCreate", &[NewHandle(Pool), Bytes]), (c"cuMemPoolDestroy", &[Doomed(Pool)]), (c"cuMemPoolTrimTo", &[Handle(Pool), Number]),
    (c"cuMemPoolGetAttribute", &[Handle(Pool), Number, Out]), (c"cuMemPoolSetAttribute", &[Handle(Pool), Number, Bytes]),
    (c"cuMemcpyHtoD", &[Address, Bytes, Number]), (c"cuMemcpyHtoDAsync", &[Address, Bytes, Number, Handle(Stream)]),
    (c"cuMemcpyDtoH", &[Bytes, Address, Number]), (c"cuMemcpyDtoHAsync", &[Bytes, Address, Number, Handle(Stream)]),
    (c"cuMemcpyDtoD", &[Address, Address, Number]), (c"cuMemcpyDtoDAsync", &[Address, Address, Number, Handle(Stream)]),
    (c"cuMemcpy", &[Unified, Unified, Few]), (c"cuMemcpyAsync", &[Unified, Unified, Few, Handle(Stream)]),
    (c"cuMemcpyPeer", &[Address, Handle(Context), Address, Handle(Context), Number]),
    (c"cuMemcpyPeerAsync", &[Address, Handle(Context), Address, Handle(Context), Number, Handle(Stream)]),
    (c"cuMemsetD8", &[Address, Number, Number]), (c"cuMemsetD8Async", &[Address, Number, Number, Handle(Stream)]),
    (c"cuMemsetD16", &[Address, Number, Number]), (c"cuMemsetD16Async", &[Address, Number, Number, Handle(Stream)]),
    (c"cuMemsetD32", &[Address, Number, Number]), (c"cuMemsetD32Async", &[Address, Number, Number, Handle(Stream)]),
    (c"cuMemsetD2D8", &[Address, Number, Number, Number, Number]),
    (c"cuMemsetD2D8Async", &[Address, Number, Number, Number, Number, Handle(Stream)]),
    (c"cuMemsetD2D16", &[Address, Number, Number, Number, Number]),
    (c"cuMemsetD2D16Async", &[Address, Number, Number, Number, Number, Handle(Stream)]),
    (c"cuMemsetD2D32", &[Address, Number, Number, Number, Number]),
    (c"cuMemsetD2D32Async", &[Address, Number, Number, Number, Number, Handle(Stream)]),
    (c"cuTensorMapEncodeTiled", &[Out, Number, Number, Address, Out, Out, Out, Out, Number, Number, Number, Number]),
    (c"cuTensorMapReplaceAddress", &[Out, Address]),
    (c"cuStreamCreate", &[NewHandle(Stream), Number]), (c"cuStreamCreateWithPriority", &[NewHandle(Stream), Number, Number]),
    (c"cuStreamDestroy", &[Doomed(Stream)]), (c"cuStreamSynchronize", &[Handle(Stream)]), (c"cuStreamQuery", &[Handle(Stream)]),
    (c"cuStreamWaitEvent", &[Handle(Stream), Handle(Event), Number]), (c"cuStreamGetFlags", &[Handle(Stream), Out]),
    (c"cuStreamGetPriority", &[Handle(Stream), Out]), (c"cuStreamGetCtx", &[Handle(Stream), Out, Out]), (c"cuStreamGetId", &[Handle(Stream), Out]),
    (c"cuLaunchHostFunc", &[Handle(Stream), Callback, Bytes]), (c"cuStreamBeginCapture", &[Handle(Stream), Number]),
    (c"cuStreamEndCapture", &[Handle(Stream), NewHandle(Graph)]), (c"cuStreamEndCapture", &[Handle(Stream), NewHandle(Graph)]),
    (c"cuStreamIsCapturing", &[Handle(Stream), Out]), (c"cuStreamGetCaptureInfo", &[Handle(Stream), Out, Out, Out, Out, Out, Out]),
    (c"cuThreadExchangeStreamCaptureMode", &[Out]),
    (c"cuEventCreate", &[NewHandle(Event), Number]), (c"cuEventDestroy", &[Doomed(Event)]), (c"cuEventRecord", &[Handle(Event), Handle(Stream)]),
    (c"cuEventRecordWithFlags", &[Handle(Event), Handle(Stream), Number]), (c"cuEventSynchronize", &[Handle(Event)]),
    (c"cuEventQuery", &[Handle(Event)]), (c"cuEventElapsedTime", &[Out, Handle(Event), Handle(Event)]),
    (c"cuGraphInstantiate", &[NewHandle(Executable), Handle(Graph), Number]), (c"cuGraphLaunch", &[Handle(Executable), Handle(Stream)]),
    (c"cuGraphUpload", &[Handle(Executable), Handle(Stream)]), (c"cuGraphGetNodes", &[Handle(Graph), NewHandle(Node), Out]),
    (c"cuGraphNodeGetType", &[Handle(Node), Out]), (c"cuGraphExecUpdate", &[Handle(Executable), Handle(Graph), Out]),
    (c"cuGraphExecDestroy", &[Doomed(Executable)]), (c"cuGraphDestroy", &[Doomed(Graph)]), (c"cuGraphKernelNodeGetParams", &[Handle(Node), Out]),
    (c"cuGraphKernelNodeSetParams", &[Handle(Node), NodeParameters]),
    (c"cuGraphExecKernelNodeSetParams", &[Handle(Executable), Handle(Node), NodeParameters]),
    (c"cuLaunchKernel", &[Handle(Function), Extent, Extent, Extent, Extent, Extent, Extent, Number, Handle(Stream), Parameters, Null]),
    (c"cuLaunchKernel", &[Handle(Function), Extent, Extent, Extent, Extent, Extent, Extent, Number, Handle(Stream), Null, Extra]),
    (c"cuLaunchCooperativeKernel", &[Handle(Function), Extent, Extent, Extent, Extent, Extent, Extent, Number, Handle(Stream), Parameters]),
    (c"cuLaunchKernelEx", &[Config, Handle(Function), Parameters, Null]),
    // Waits for numbers in memory are left out: most would wait for what nobody does.
    (c"cuStreamWriteValue32", &[Handle(Stream), Address, Number, Number]),
    (c"cuStreamWriteValue64", &[Handle(Stream), Address, Number, Number]),
    (c"cuStreamBatchMemOp", &[Handle(Stream), Few, Null, Number]),
    (c"cuMemcpy2D", &[Rows]), (c"cuMemcpy2DUnaligned", &[Rows]), (c"cuMemcpy2DAsync", &[Rows, Handle(Stream)]),
    (c"cuMemcpy3D", &[Layers]), (c"cuMemcpy3DAsync", &[Layers, Handle(Stream)]),
    (c"cuLibraryLoadData", &[NewHandle(Library), Image, Null, Null, Number, Null, Null, Number]),
    (c"cuLibraryLoadFromFile", &[NewHandle(Library), Name, Null, Null, Number, Null, Null, Number]),
    (c"cuLibraryUnload", &[Doomed(Library)]), (c"cuLibraryGetModule", &[NewHandle(Module), Handle(Library)]),
    (c"cuLibraryGetKernel", &[NewHandle(Kernel), Handle(Library), Name]), (c"cuLibraryGetKernelCount", &[Out, Handle(Library)]),
    (c"cuLibraryEnumerateKernels", &[NewHandle(Kernel), Few, Handle(Library)]),
    (c"cuLibraryGetGlobal", &[NewAddress, Out, Handle(Library), Name]), (c"cuLibraryGetManaged", &[Out, Out, Handle(Library), Name]),
    (c"cuLibraryGetUnifiedFunction", &[Out, Handle(Library), Name]),
    (c"cuKernelGetFunction", &[NewHandle(Function), Handle(Kernel)]), (c"cuKernelGetLibrary", &[Out, Handle(Kernel)]),
    (c"cuKernelGetName", &[Out, Handle(Kernel)]), (c"cuKernelGetParamInfo", &[Handle(Kernel), Number, Out, Out]),
    (c"cuKernelGetAttribute", &[Out, Number, Handle(Kernel), Device]), (c"cuKernelSetAttribute", &[Number, Number, Handle(Kernel), Device]),
    (c"cuKernelSetCacheConfig", &[Handle(Kernel), Number, Device]),
    (c"cuLaunchKernel", &[Handle(Kernel), Extent, Extent, Extent, Extent, Extent, Extent, Number, Handle(Stream), Parameters, Null]),
    (c"cuGraphCreate", &[NewHandle(Graph), Number]), (c"cuGraphClone", &[NewHandle(Graph), Handle(Graph)]),
    (c"cuGraphNodeFindInClone", &[NewHandle(Node), Handle(Node), Handle(Graph)]), (c"cuGraphDestroyNode", &[Doomed(Node)]),
    (c"cuGraphGetRootNodes", &[Handle(Graph), NewHandle(Node), Out]), (c"cuGraphGetEdges", &[Handle(Graph), Out, Out, Out, Out]),
    (c"cuGraphNodeGetDependencies", &[Handle(Node), Out, Out, Out]), (c"cuGraphNodeGetDependentNodes", &[Handle(Node), Out, Out, Out]),
    (c"cuGraphAddDependencies", &[Handle(Graph), Nodes, Nodes, Null, NodeCount]),
    (c"cuGraphRemoveDependencies", &[Handle(Graph), Nodes, Nodes, Bytes, NodeCount]),
    (c"cuGraphAddEmptyNode", &[NewHandle(Node), Handle(Graph), Nodes, NodeCount]),
    (c"cuGraphAddKernelNode", &[NewHandle(Node), Handle(Graph), Nodes, NodeCount, NodeParameters]),
    (c"cuGraphAddMemcpyNode", &[NewHandle(Node), Handle(Graph), Nodes, NodeCount, Layers, Handle(Context)]),
    (c"cuGraphMemcpyNodeGetParams", &[Handle(Node), Out]), (c"cuGraphMemcpyNodeSetParams", &[Handle(Node), Layers]),
    (c"cuGraphExecMemcpyNodeSetParams", &[Handle(Executable), Handle(Node), Layers, Null]),
    (c"cuGraphAddMemsetNode", &[NewHandle(Node), Handle(Graph), Nodes, NodeCount, FillParameters, Null]),
    (c"cuGraphMemsetNodeGetParams", &[Handle(Node), Out]), (c"cuGraphMemsetNodeSetParams", &[Handle(Node), FillParameters]),
    (c"cuGraphExecMemsetNodeSetParams", &[Handle(Executable), Handle(Node), FillParameters, Handle(Context)]),
    (c"cuGraphAddHostNode", &[NewHandle(Node), Handle(Graph), Nodes, NodeCount, CallParameters]),
    (c"cuGraphHostNodeGetParams", &[Handle(Node), Out]), (c"cuGraphHostNodeSetParams", &[Handle(Node), CallParameters]),
    (c"cuGraphExecHostNodeSetParams", &[Handle(Executable), Handle(Node), CallParameters]),
    (c"cuGraphAddChildGraphNode", &[NewHandle(Node), Handle(Graph), Nodes, NodeCount, Handle(Graph)]),
    (c"cuGraphChildGraphNodeGetGraph", &[Handle(Node), NewHandle(Graph)]),
    (c"cuGraphAddEventRecordNode", &[NewHandle(Node), Handle(Graph), Nodes, NodeCount, Handle(Event)]),
    (c"cuGraphAddEventWaitNode", &[NewHandle(Node), Handle(Graph), Nodes, NodeCount, Handle(Event)]),
    (c"cuGraphEventRecordNodeGetEvent", &[Handle(Node), Out]), (c"cuGraphEventWaitNodeSetEvent", &[Handle(Node), Handle(Event)]),
    (c"cuGraphAddNode", &[NewHandle(Node), Handle(Graph), Nodes, Null, NodeCount, AnyParameters]),
    (c"cuGraphNodeSetParams", &[Handle(Node), AnyParameters]), (c"cuGraphExecNodeSetParams", &[Handle(Executable), Handle(Node), AnyParameters]),
    (c"cuGraphNodeSetEnabled", &[Handle(Executable), Handle(Node), Number]), (c"cuGraphNodeGetEnabled", &[Handle(Executable), Handle(Node), Out]),
    (c"cuGraphKernelNodeGetAttribute", &[Handle(Node), Number, Out]), (c"cuGraphKernelNodeSetAttribute", &[Handle(Node), Number, Bytes]),
    (c"cuGraphKernelNodeCopyAttributes", &[Handle(Node), Handle(Node)]), (c"cuGraphExecGetFlags", &[Handle(Executable), Out]),
    (c"cuGraphInstantiateWithParams", &[NewHandle(Executable), Handle(Graph), Out]),
    (c"cuUserObjectCreate", &[NewHandle(UserObject), Bytes, Callback, Number, Number]), (c"cuUserObjectRetain", &[Handle(UserObject), Number]),
    (c"cuUserObjectRelease", &[Handle(UserObject), Number]), (c"cuGraphRetainUserObject", &[Handle(Graph), Handle(UserObject), Number, Number]),
    (c"cuGraphReleaseUserObject", &[Handle(Graph), Handle(UserObject), Number]),
    (c"cuStreamAddCallback", &[Handle(Stream), Callback, Bytes, Number]), (c"cuStreamGetDevice", &[Handle(Stream), Out]),
    (c"cuStreamGetAttribute", &[Handle(Stream), Number, Out]), (c"cuStreamSetAttribute", &[Handle(Stream), Number, Bytes]),
    (c"cuStreamCopyAttributes", &[Handle(Stream), Handle(Stream)]),
    (c"cuMemAllocPitch", &[NewAddress, Out, Allocation, Few, Number]), (c"cuMemHostRegister", &[Bytes, Few, Number]),
    (c"cuMemHostUnregister", &[Bytes]), (c"cuMemHostGetFlags", &[Out, HostMemory]),
    (c"cuPointerGetAttributes", &[Few, Bytes, Parameters, Address]),
    (c"cuMemPoolSetAccess", &[Handle(Pool), Bytes, Few]), (c"cuMemPoolGetAccess", &[Out, Handle(Pool), Bytes]),
    (c"cuMemGetDefaultMemPool", &[NewHandle(Pool), Bytes, Number]), (c"cuMemSetMemPool", &[Bytes, Number, Handle(Pool)]),
    (c"cuDeviceGetByPCIBusId", &[Out, Name]), (c"cuDeviceGetP2PAttribute", &[Out, Number, Device, Device]),
    (c"cuCtxEnablePeerAccess", &[Handle(Context), Number]), (c"cuCtxResetPersistingL2Cache", &[]), (c"cuCtxSetSharedMemConfig", &[Number]),
    (c"cuOccupancyMaxActiveClusters", &[Out, Handle(Function), Config]),
    (c"cuOccupancyMaxPotentialClusterSize", &[Out, Handle(Function), Config]),
    (c"cuOccupancyMaxPotentialBlockSize", &[Out, Out, Handle(Function), Null, Number, Number]),
    (c"cuGetExportTable", &[Out, Bytes]),
    (c"cuGetErrorName", &[Number, Out]), (c"cuGetErrorString", &[Number, Out]),
    (c"cuGetProcAddress", &[Name, Out, Number, Number, Out]),
];
