//! Graphs built node by node.

use std::ffi::{CString, c_void};
use std::ptr::null_mut;

use cudarc::driver::sys::cudaError_enum as Code;
use cudarc::driver::{result, sys};

use super::process::{alone, case, own_context, run};

const PTX: &str = include_str!("../fixtures/driver.ptx");
const INVALID: Code = Code::CUDA_ERROR_INVALID_VALUE;

type Node = sys::CUgraphNode;

fn graph() -> sys::CUgraph {
    let mut graph = null_mut();
    // SAFETY: the pointer is valid for the call.
    let code = unsafe { sys::cuGraphCreate(&mut graph, 0) };
    assert_eq!(code, Code::CUDA_SUCCESS);
    graph
}

fn memory() -> u64 {
    // SAFETY: the fill has the memory's size.
    unsafe {
        let address = result::malloc_sync(512).expect("memory");
        assert_eq!(sys::cuMemsetD8_v2(address, 0, 512), Code::CUDA_SUCCESS);
        address
    }
}

fn numbers(address: u64) -> Vec<u32> {
    let mut values = vec![0; 128];
    // SAFETY: the memory has the numbers.
    unsafe { result::memcpy_dtoh_sync(&mut values, address) }.expect("a copy");
    values
}

/// A node that fills `count` numbers with `value`.
fn fill(graph: sys::CUgraph, after: &[Node], address: u64, value: u32, count: usize) -> Node {
    let params = sys::CUDA_MEMSET_NODE_PARAMS {
        dst: address,
        pitch: 0,
        value,
        elementSize: 4,
        width: count,
        height: 1,
    };
    let mut node = null_mut();
    // SAFETY: the pointers are valid for the call.
    let code = unsafe {
        let context = null_mut();
        sys::cuGraphAddMemsetNode(
            &mut node,
            graph,
            after.as_ptr(),
            after.len(),
            &params,
            context,
        )
    };
    assert_eq!(code, Code::CUDA_SUCCESS);
    node
}

fn empty(graph: sys::CUgraph, after: &[Node]) -> Result<Node, Code> {
    let mut node = null_mut();
    // SAFETY: the pointers are valid for the call.
    let code = unsafe { sys::cuGraphAddEmptyNode(&mut node, graph, after.as_ptr(), after.len()) };
    if code == Code::CUDA_SUCCESS {
        Ok(node)
    } else {
        Err(code)
    }
}

fn copy_params(from: u64, to: u64, bytes: usize) -> sys::CUDA_MEMCPY3D {
    let device = sys::CUmemorytype::CU_MEMORYTYPE_DEVICE;
    sys::CUDA_MEMCPY3D {
        srcXInBytes: 0,
        srcY: 0,
        srcZ: 0,
        srcLOD: 0,
        srcMemoryType: device,
        srcHost: null_mut(),
        srcDevice: from,
        srcArray: null_mut(),
        reserved0: null_mut(),
        srcPitch: 0,
        srcHeight: 0,
        dstXInBytes: 0,
        dstY: 0,
        dstZ: 0,
        dstLOD: 0,
        dstMemoryType: device,
        dstHost: null_mut(),
        dstDevice: to,
        dstArray: null_mut(),
        reserved1: null_mut(),
        dstPitch: 0,
        dstHeight: 0,
        WidthInBytes: bytes,
        Height: 1,
        Depth: 1,
    }
}

fn copy(graph: sys::CUgraph, after: &[Node], from: u64, to: u64) -> Node {
    let (mut node, params) = (null_mut(), copy_params(from, to, 512));
    // SAFETY: the pointers are valid for the call.
    let code = unsafe {
        let context = null_mut();
        sys::cuGraphAddMemcpyNode(
            &mut node,
            graph,
            after.as_ptr(),
            after.len(),
            &params,
            context,
        )
    };
    assert_eq!(code, Code::CUDA_SUCCESS);
    node
}

/// A node that launches `reverse` of 128 numbers.
fn reverse(graph: sys::CUgraph, after: &[Node], mut address: u64) -> Node {
    let text = CString::new(PTX).expect("text");
    let mut parameters = [(&raw mut address).cast::<c_void>()];
    let mut node = null_mut();
    // SAFETY: the image is NUL-terminated text, the parameters are the kernel's.
    unsafe {
        let module = result::module::load_data(text.as_ptr().cast()).expect("a module");
        let func = result::module::get_function(module, c"reverse".to_owned()).expect("a kernel");
        let params = sys::CUDA_KERNEL_NODE_PARAMS {
            func,
            gridDimX: 1,
            gridDimY: 1,
            gridDimZ: 1,
            blockDimX: 128,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: 0,
            kernelParams: parameters.as_mut_ptr(),
            extra: null_mut(),
            kern: null_mut(),
            ctx: null_mut(),
        };
        let code =
            sys::cuGraphAddKernelNode_v2(&mut node, graph, after.as_ptr(), after.len(), &params);
        assert_eq!(code, Code::CUDA_SUCCESS);
    }
    node
}

fn instantiate(graph: sys::CUgraph) -> Result<sys::CUgraphExec, Code> {
    let mut executable = null_mut();
    // SAFETY: the pointer is valid for the call.
    match unsafe { sys::cuGraphInstantiateWithFlags(&mut executable, graph, 0) } {
        Code::CUDA_SUCCESS => Ok(executable),
        code => Err(code),
    }
}

fn launch(executable: sys::CUgraphExec) {
    // SAFETY: the driver looks handles up.
    let code = unsafe { sys::cuGraphLaunch(executable, null_mut()) };
    assert_eq!(code, Code::CUDA_SUCCESS);
}

fn edges(graph: sys::CUgraph) -> Vec<(Node, Node)> {
    let mut count = 0;
    // SAFETY: there is room for as many edges as asked.
    unsafe {
        let none = null_mut();
        let code = sys::cuGraphGetEdges_v2(graph, none, none, null_mut(), &mut count);
        assert_eq!(code, Code::CUDA_SUCCESS);
        let (mut from, mut to) = (vec![null_mut(); count], vec![null_mut(); count]);
        let (first, second) = (from.as_mut_ptr(), to.as_mut_ptr());
        let code = sys::cuGraphGetEdges_v2(graph, first, second, null_mut(), &mut count);
        assert_eq!(code, Code::CUDA_SUCCESS);
        from.into_iter().zip(to).collect()
    }
}

fn dependents(node: Node) -> Vec<Node> {
    let (mut count, mut nodes) = (8, vec![null_mut(); 8]);
    // SAFETY: there is room for as many nodes as asked.
    let code = unsafe {
        sys::cuGraphNodeGetDependentNodes_v2(node, nodes.as_mut_ptr(), null_mut(), &mut count)
    };
    assert_eq!(code, Code::CUDA_SUCCESS);
    nodes.truncate(count);
    nodes
}

unsafe extern "C" fn count_up(counter: *mut c_void) {
    // SAFETY: the node's argument is a number that outlives the graph's launches.
    unsafe { *counter.cast::<u32>() += 1 };
}

#[test]
fn nodes_of_every_kind_run_in_the_order_of_their_edges() {
    let _context = own_context();
    let (graph, values, target) = (graph(), memory(), memory());
    let first = fill(graph, &[], values, 5, 1);
    let reversed = reverse(graph, &[first], values);
    let copied = copy(graph, &[reversed], values, target);
    let after = empty(graph, &[copied]).expect("a node");
    let mut calls = 0_u32;
    let mut called = null_mut();
    let params = sys::CUDA_HOST_NODE_PARAMS {
        fn_: Some(count_up),
        userData: (&raw mut calls).cast(),
    };
    // SAFETY: the function's argument is what it expects.
    let code = unsafe { sys::cuGraphAddHostNode(&mut called, graph, &after, 1, &params) };
    assert_eq!(code, Code::CUDA_SUCCESS);
    assert_eq!(
        edges(graph),
        [
            (first, reversed),
            (reversed, copied),
            (copied, after),
            (after, called)
        ]
    );
    assert_eq!(dependents(copied), [after]);
    let (mut count, mut roots) = (2, [null_mut(); 2]);
    // SAFETY: there is room for as many nodes as asked.
    let code = unsafe { sys::cuGraphGetRootNodes(graph, roots.as_mut_ptr(), &mut count) };
    assert_eq!((code, count, roots[0]), (Code::CUDA_SUCCESS, 1, first));
    let executable = instantiate(graph).expect("a graph");
    launch(executable);
    let found = numbers(target);
    assert_eq!((found[0], found[127]), (0, 5));
    launch(executable);
    assert_eq!(calls, 2);
}

/// Nodes are made in another order than that of their edges.
#[test]
fn edges_may_be_added_and_taken_away() {
    let _context = own_context();
    let (graph, values) = (graph(), memory());
    let second = fill(graph, &[], values, 2, 1);
    let first = fill(graph, &[], values, 1, 1);
    let change = |add: bool, from: Node, to: Node| {
        // SAFETY: the pointers are valid for the call.
        unsafe {
            if add {
                sys::cuGraphAddDependencies_v2(graph, &from, &to, std::ptr::null(), 1)
            } else {
                sys::cuGraphRemoveDependencies_v2(graph, &from, &to, std::ptr::null(), 1)
            }
        }
    };
    assert_eq!(change(true, first, second), Code::CUDA_SUCCESS);
    assert_eq!(change(true, first, second), INVALID, "there is one already");
    launch(instantiate(graph).expect("a graph"));
    assert_eq!(numbers(values)[0], 2);
    assert_eq!(change(true, second, first), Code::CUDA_SUCCESS);
    assert_eq!(instantiate(graph), Err(INVALID), "a circle");
    assert_eq!(change(false, first, second), Code::CUDA_SUCCESS);
    assert_eq!(change(false, first, second), INVALID, "there is none");
    launch(instantiate(graph).expect("a graph"));
    assert_eq!(numbers(values)[0], 1);
    assert_eq!(change(true, first, first), INVALID, "itself");
    let foreign = empty(self::graph(), &[]).expect("a node");
    assert_eq!(change(true, first, foreign), INVALID, "of another graph");
    assert_eq!(empty(graph, &[first, first]), Err(INVALID), "twice");
    assert_eq!(empty(graph, &[foreign]), Err(INVALID), "of another graph");
}

#[test]
fn a_clone_is_a_graph_of_its_own() {
    let _context = own_context();
    let (graph, values) = (graph(), memory());
    let first = fill(graph, &[], values, 1, 1);
    let second = fill(graph, &[first], values + 4, 2, 1);
    let (mut clone, mut found) = (null_mut(), null_mut());
    // SAFETY: the pointers are valid for the calls.
    unsafe {
        assert_eq!(sys::cuGraphClone(&mut clone, graph), Code::CUDA_SUCCESS);
        let code = sys::cuGraphNodeFindInClone(&mut found, second, clone);
        assert_eq!(code, Code::CUDA_SUCCESS);
        assert_ne!(found, second);
        assert_eq!(edges(clone).len(), 1);
        assert_eq!(sys::cuGraphDestroyNode(found), Code::CUDA_SUCCESS);
        assert_eq!(sys::cuGraphDestroyNode(found), INVALID, "gone");
        let code = sys::cuGraphNodeFindInClone(&mut found, first, graph);
        assert_eq!(code, INVALID, "no clone");
    }
    assert_eq!((edges(clone).len(), edges(graph).len()), (0, 1));
    launch(instantiate(clone).expect("a graph"));
    assert_eq!(numbers(values)[..2], [1, 0]);
    launch(instantiate(graph).expect("a graph"));
    assert_eq!(numbers(values)[..2], [1, 2]);
}

#[test]
fn a_node_may_hold_a_graph() {
    let _context = own_context();
    let (inner, outer, values) = (graph(), graph(), memory());
    let filled = fill(inner, &[], values, 3, 1);
    let (mut held, mut copy) = (null_mut(), null_mut());
    // SAFETY: the pointers are valid for the calls.
    unsafe {
        let code = sys::cuGraphAddChildGraphNode(&mut held, outer, null_mut(), 0, inner);
        assert_eq!(code, Code::CUDA_SUCCESS);
        assert_eq!(
            sys::cuGraphDestroyNode(filled),
            Code::CUDA_SUCCESS,
            "of the original"
        );
        assert_eq!(
            sys::cuGraphChildGraphNodeGetGraph(held, &mut copy),
            Code::CUDA_SUCCESS
        );
        assert_eq!(sys::cuGraphDestroy(copy), INVALID, "it belongs to its node");
    }
    fill(copy, &[], values + 4, 4, 1);
    launch(instantiate(outer).expect("a graph"));
    assert_eq!(numbers(values)[..2], [3, 4]);
    // SAFETY: the driver looks handles up.
    unsafe { assert_eq!(sys::cuGraphDestroy(outer), Code::CUDA_SUCCESS) };
    let gone = empty(copy, &[]);
    assert_eq!(gone, Err(INVALID), "gone with its node");
}

#[test]
fn graphs_are_not_nested_without_end() {
    let _context = own_context();
    let mut inner = graph();
    fill(inner, &[], memory(), 3, 1);
    let mut deep = 0;
    loop {
        let (outer, mut node) = (graph(), null_mut());
        // SAFETY: the pointer is valid for the call.
        match unsafe { sys::cuGraphAddChildGraphNode(&mut node, outer, null_mut(), 0, inner) } {
            Code::CUDA_SUCCESS => (inner, deep) = (outer, deep + 1),
            code => break assert_eq!(code, Code::CUDA_ERROR_NOT_SUPPORTED),
        }
    }
    assert!((8..100).contains(&deep), "{deep}");
    launch(instantiate(inner).expect("a graph"));
}

#[test]
fn parameters_are_told_and_changed_in_graphs_and_executables() {
    let _context = own_context();
    let (graph, values, target) = (graph(), memory(), memory());
    let filled = fill(graph, &[], values, 1, 128);
    let copied = copy(graph, &[filled], values, target);
    let executable = instantiate(graph).expect("a graph");
    let mut fill_params = sys::CUDA_MEMSET_NODE_PARAMS {
        dst: 0,
        pitch: 0,
        value: 0,
        elementSize: 0,
        width: 0,
        height: 0,
    };
    let mut given = copy_params(0, 0, 0);
    // SAFETY: the pointers are valid for the calls.
    unsafe {
        let code = sys::cuGraphMemsetNodeGetParams(filled, &mut fill_params);
        assert_eq!((code, fill_params.value), (Code::CUDA_SUCCESS, 1));
        assert_eq!(
            sys::cuGraphMemcpyNodeGetParams(copied, &mut given),
            Code::CUDA_SUCCESS
        );
        assert_eq!((given.srcDevice, given.dstDevice), (values, target));
        fill_params.value = 2;
        let set = sys::cuGraphExecMemsetNodeSetParams(executable, filled, &fill_params, null_mut());
        assert_eq!(set, Code::CUDA_SUCCESS);
        fill_params.value = 3;
        let code = sys::cuGraphMemsetNodeSetParams(filled, &fill_params);
        assert_eq!(code, Code::CUDA_SUCCESS);
        fill_params.elementSize = 3;
        let code = sys::cuGraphMemsetNodeSetParams(filled, &fill_params);
        assert_eq!(code, INVALID, "elements of three bytes");
        let code = sys::cuGraphMemcpyNodeSetParams(filled, &given);
        assert_eq!(code, INVALID, "a node of another kind");
        let short = copy_params(values, target, 4);
        let code = sys::cuGraphExecMemcpyNodeSetParams(executable, copied, &short, null_mut());
        assert_eq!(code, Code::CUDA_SUCCESS);
    }
    launch(executable);
    assert_eq!(numbers(target)[..2], [2, 0]);
    launch(instantiate(graph).expect("a graph"));
    assert_eq!(numbers(target)[..2], [3, 3]);
    // SAFETY: the pointers are valid for the calls.
    unsafe {
        let mut info: sys::CUgraphExecUpdateResultInfo = std::mem::zeroed();
        let code = sys::cuGraphExecUpdate_v2(executable, graph, &mut info);
        assert_eq!(code, Code::CUDA_SUCCESS, "the graph's own parameters again");
        let code = sys::cuGraphNodeSetEnabled(executable, copied, 0);
        assert_eq!(code, Code::CUDA_SUCCESS);
        assert_eq!(sys::cuMemsetD8_v2(target, 0, 512), Code::CUDA_SUCCESS);
    }
    launch(executable);
    assert_eq!(
        (numbers(values)[1], numbers(target)[1]),
        (3, 0),
        "the copy is off"
    );
}

#[test]
fn events_are_recorded_and_waited_for_by_nodes() {
    let _context = own_context();
    let (graph, values) = (graph(), memory());
    let flags = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING;
    let (first, second) = (
        result::event::create(flags).expect("an event"),
        result::event::create(flags).expect("an event"),
    );
    let (mut recorded, mut waited, mut found) = (null_mut(), null_mut(), null_mut());
    // SAFETY: the pointers are valid for the calls.
    unsafe {
        let code = sys::cuGraphAddEventRecordNode(&mut recorded, graph, null_mut(), 0, first);
        assert_eq!(code, Code::CUDA_SUCCESS);
        let code = sys::cuGraphAddEventWaitNode(&mut waited, graph, &recorded, 1, first);
        assert_eq!(code, Code::CUDA_SUCCESS);
        let code = sys::cuGraphEventRecordNodeGetEvent(recorded, &mut found);
        assert_eq!((code, found), (Code::CUDA_SUCCESS, first));
        let code = sys::cuGraphEventWaitNodeGetEvent(recorded, &mut found);
        assert_eq!(code, INVALID, "it records");
        assert_eq!(
            sys::cuGraphEventRecordNodeSetEvent(recorded, second),
            Code::CUDA_SUCCESS
        );
        fill(graph, &[waited], values, 1, 1);
        launch(instantiate(graph).expect("a graph"));
        assert_eq!(sys::cuEventQuery(second), Code::CUDA_SUCCESS);
        let mut milliseconds = 0.0;
        let code = sys::cuEventElapsedTime_v2(&mut milliseconds, second, first);
        assert_eq!(code, Code::CUDA_ERROR_INVALID_HANDLE, "without timing");
    }
    assert_eq!(numbers(values)[0], 1);
}

#[test]
fn a_captured_graph_knows_its_edges() {
    alone("graphs::a_captured_graph_knows_its_edges", || {
        let context = own_context();
        let values = memory();
        let (own, fork) = (
            context.new_stream().expect("a stream"),
            context.new_stream().expect("a stream"),
        );
        let (own, fork) = (own.cu_stream(), fork.cu_stream());
        let flags = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING;
        let event = || result::event::create(flags).expect("an event");
        let (begin, end) = (event(), event());
        let mut graph = null_mut();
        let wait = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: handles are live, and the memory has what is filled.
        unsafe {
            let fill = |at: u64, stream| {
                result::memset_d8_async(values + at, 1, 1, stream).expect("a fill");
            };
            let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
            result::stream::begin_capture(own, mode).expect("a capture");
            fill(0, own);
            result::event::record(begin, own).expect("a record");
            result::stream::wait_event(fork, begin, wait).expect("a wait");
            fill(1, own);
            fill(2, fork);
            result::event::record(end, fork).expect("a record");
            result::stream::wait_event(own, end, wait).expect("a wait");
            fill(3, own);
            assert_eq!(sys::cuStreamEndCapture(own, &mut graph), Code::CUDA_SUCCESS);
        }
        let (mut count, mut nodes) = (4, [null_mut(); 4]);
        // SAFETY: there is room for as many nodes as asked.
        let code = unsafe { sys::cuGraphGetNodes(graph, nodes.as_mut_ptr(), &mut count) };
        assert_eq!((code, count), (Code::CUDA_SUCCESS, 4));
        let [first, left, right, last] = nodes;
        let mut found = edges(graph);
        found.sort();
        let mut expected = [(first, left), (first, right), (left, last), (right, last)];
        expected.sort();
        assert_eq!(found, expected);
    });
}

/// Where streams are late, what no edge orders runs the other way around.
#[test]
fn a_missing_edge_shows_where_streams_are_late() {
    if let Some(expected) = case() {
        let _context = own_context();
        let (graph, values) = (graph(), memory());
        let first = fill(graph, &[], values, 1, 1);
        let before: &[Node] = if expected == "2" { &[first] } else { &[] };
        fill(graph, before, values, 2, 1);
        launch(instantiate(graph).expect("a graph"));
        assert_eq!(numbers(values)[0].to_string(), expected);
        return;
    }
    let test = "graphs::a_missing_edge_shows_where_streams_are_late";
    for expected in ["1", "2"] {
        let (success, output) = run(test, expected, &[("PTX_EMULATOR_STREAMS", "latest")]);
        assert!(success, "{output}");
    }
}
