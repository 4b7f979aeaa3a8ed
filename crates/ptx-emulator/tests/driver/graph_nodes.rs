//! Nodes of captured graphs: listing them, and changing kernel launches in a graph or in an
//! executable graph. Each test has a context of its own.

use std::ffi::{CString, c_void};
use std::ptr::{null_mut, without_provenance_mut};

use cudarc::driver::sys::{CUgraphNodeType, CUstreamCaptureMode, cudaError_enum as Code};
use cudarc::driver::{result, sys};

use super::process::own_context;

const PTX: &str = include_str!("../fixtures/driver.ptx");
const N: usize = 128;

fn kernel(name: &str) -> sys::CUfunction {
    let (text, name) = (
        CString::new(PTX).expect("text"),
        CString::new(name).expect("a name"),
    );
    // SAFETY: the image is NUL-terminated text.
    unsafe {
        let module = result::module::load_data(text.as_ptr().cast()).expect("a module");
        result::module::get_function(module, name).expect("a kernel")
    }
}

fn upload(value: i32) -> u64 {
    // SAFETY: the buffer has the size that is copied.
    unsafe {
        let address = result::malloc_sync(4 * N).expect("memory");
        result::memcpy_htod_sync(address, &[value; N]).expect("a copy");
        address
    }
}

fn first(address: u64) -> i32 {
    let mut values = [0; N];
    // SAFETY: the buffer has the size that is copied.
    unsafe { result::memcpy_dtoh_sync(&mut values, address) }.expect("a copy");
    values[0]
}

/// Captures `reverse` of a buffer between two fills of its first value.
fn capture(reverse: sys::CUfunction, address: u64, fills: bool) -> sys::CUgraph {
    let (mut stream, mut graph, mut parameter) = (null_mut(), null_mut(), address);
    let mut parameters = [(&raw mut parameter).cast::<c_void>()];
    // SAFETY: the handles are live and the parameters are the kernel's.
    unsafe {
        assert_eq!(sys::cuStreamCreate(&mut stream, 1), Code::CUDA_SUCCESS);
        result::stream::begin_capture(stream, CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED)
            .expect("a capture");
        if fills {
            assert_eq!(
                sys::cuMemsetD32Async(address, 7, 1, stream),
                Code::CUDA_SUCCESS
            );
        }
        let parameters = parameters.as_mut_ptr();
        let code = sys::cuLaunchKernel(
            reverse,
            1,
            1,
            1,
            N as u32,
            1,
            1,
            0,
            stream,
            parameters,
            null_mut(),
        );
        assert_eq!(code, Code::CUDA_SUCCESS);
        assert_eq!(
            sys::cuStreamEndCapture(stream, &mut graph),
            Code::CUDA_SUCCESS
        );
    }
    graph
}

fn nodes(graph: sys::CUgraph, room: usize) -> Vec<sys::CUgraphNode> {
    let mut count = room;
    let mut nodes = vec![without_provenance_mut(1); room];
    // SAFETY: there is room for as many nodes as asked.
    let code = unsafe { sys::cuGraphGetNodes(graph, nodes.as_mut_ptr(), &mut count) };
    assert_eq!(code, Code::CUDA_SUCCESS);
    assert!(
        nodes[count..].iter().all(|node| node.is_null()),
        "room without a node is null"
    );
    nodes.truncate(count);
    nodes
}

fn instantiate(graph: sys::CUgraph) -> sys::CUgraphExec {
    let mut executable = null_mut();
    // SAFETY: the pointer is valid for the call.
    let code = unsafe { sys::cuGraphInstantiateWithFlags(&mut executable, graph, 0) };
    assert_eq!(code, Code::CUDA_SUCCESS);
    executable
}

fn launch(executable: sys::CUgraphExec) {
    assert_eq!(
        // SAFETY: the driver looks handles up.
        unsafe { sys::cuGraphLaunch(executable, null_mut()) },
        Code::CUDA_SUCCESS
    );
}

fn parameters_of(node: sys::CUgraphNode) -> sys::CUDA_KERNEL_NODE_PARAMS {
    // SAFETY: all-zero is a valid value of this C structure, and the pointer is valid for the call.
    unsafe {
        let mut parameters = std::mem::zeroed();
        assert_eq!(
            sys::cuGraphKernelNodeGetParams_v2(node, &mut parameters),
            Code::CUDA_SUCCESS
        );
        parameters
    }
}

#[test]
fn nodes_are_listed_with_their_kinds() {
    let _context = own_context();
    let graph = capture(kernel("reverse"), upload(0), true);
    let listed = nodes(graph, 5);
    let kinds: Vec<CUgraphNodeType> = listed
        .iter()
        .map(|&node| {
            let mut kind = CUgraphNodeType::CU_GRAPH_NODE_TYPE_EMPTY;
            // SAFETY: the pointer is valid for the call.
            let code = unsafe { sys::cuGraphNodeGetType(node, &mut kind) };
            assert_eq!(code, Code::CUDA_SUCCESS);
            kind
        })
        .collect();
    assert_eq!(
        kinds,
        [
            CUgraphNodeType::CU_GRAPH_NODE_TYPE_MEMSET,
            CUgraphNodeType::CU_GRAPH_NODE_TYPE_KERNEL
        ]
    );
    assert_eq!(
        nodes(graph, 1),
        listed[..1],
        "no more than there is room for"
    );
    let mut count = 0;
    // SAFETY: without room for nodes, only the count is written.
    let code = unsafe { sys::cuGraphGetNodes(graph, null_mut(), &mut count) };
    assert_eq!((code, count), (Code::CUDA_SUCCESS, 2));
}

#[test]
fn a_node_tells_what_it_launches_and_takes_it_back() {
    let _context = own_context();
    let (reverse, address, other) = (kernel("reverse"), upload(0), upload(0));
    let graph = capture(reverse, address, false);
    let node = nodes(graph, 1)[0];
    let mut parameters = parameters_of(node);
    assert_eq!((parameters.func, parameters.blockDimX), (reverse, N as u32));
    let mut value = [1; N];
    value[N - 1] = 5;
    let mut pointer = (&raw const other).cast_mut().cast::<c_void>();
    // SAFETY: the node owns one pointer to an 8-byte parameter; what it is set to lives through the
    // call.
    unsafe {
        assert_eq!(
            (*parameters.kernelParams).cast::<u64>().read_unaligned(),
            address
        );
        result::memcpy_htod_sync(other, &value).expect("a copy");
        parameters.kernelParams = &raw mut pointer;
        assert_eq!(
            sys::cuGraphKernelNodeSetParams_v2(node, &parameters),
            Code::CUDA_SUCCESS
        );
    }
    launch(instantiate(graph));
    assert_eq!((first(address), first(other)), (0, 5));
}

#[test]
fn changing_an_executable_graph_leaves_its_graph_alone() {
    let _context = own_context();
    let (address, other) = (upload(0), upload(3));
    let graph = capture(kernel("reverse"), address, false);
    let node = nodes(graph, 1)[0];
    let executable = instantiate(graph);
    let mut parameters = parameters_of(node);
    let mut pointer = (&raw const other).cast_mut().cast::<c_void>();
    parameters.kernelParams = &raw mut pointer;
    let set = |executable, node, parameters: &sys::CUDA_KERNEL_NODE_PARAMS| {
        // SAFETY: handles are looked up; the parameters live through the call.
        unsafe { sys::cuGraphExecKernelNodeSetParams_v2(executable, node, parameters) }
    };
    assert_eq!(set(executable, node, &parameters), Code::CUDA_SUCCESS);
    // SAFETY: the node's own pointer to an 8-byte parameter.
    let kept = unsafe {
        (*parameters_of(node).kernelParams)
            .cast::<u64>()
            .read_unaligned()
    };
    assert_eq!(kept, address);

    let wild = without_provenance_mut::<c_void>(0xdead_bee0);
    let refused = Code::CUDA_ERROR_INVALID_VALUE;
    assert_eq!(set(wild.cast(), node, &parameters), refused);
    assert_eq!(set(executable, wild.cast(), &parameters), refused);
    parameters.blockDimX = 4096;
    assert_eq!(set(executable, node, &parameters), refused, "no such block");
    parameters.blockDimX = N as u32;
    // SAFETY: handles are looked up.
    assert_eq!(unsafe { sys::cuGraphDestroy(graph) }, Code::CUDA_SUCCESS);
    assert_eq!(
        set(executable, node, &parameters),
        refused,
        "the node is gone with its graph"
    );
    launch(executable);
}

#[test]
fn an_executable_graph_takes_the_parameters_of_a_new_capture() {
    let _context = own_context();
    let (reverse, address, other) = (kernel("reverse"), upload(0), upload(0));
    let executable = instantiate(capture(reverse, address, true));
    let update = |graph| {
        // SAFETY: all-zero is a valid value of this C structure, and the pointer is valid for the
        // call.
        unsafe {
            let mut info: sys::CUgraphExecUpdateResultInfo = std::mem::zeroed();
            let code = sys::cuGraphExecUpdate_v2(executable, graph, &mut info);
            (code, info.result as u32)
        }
    };
    assert_eq!(
        update(capture(reverse, other, true)),
        (Code::CUDA_SUCCESS, 0)
    );
    launch(executable);
    assert_eq!((first(address), first(other)), (0, 0));
    launch(executable);
    assert_eq!((first(address), first(other)), (0, 7));
    let changed = sys::CUgraphExecUpdateResult::CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED as u32;
    assert_eq!(
        update(capture(reverse, other, false)),
        (Code::CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE, changed)
    );
}
