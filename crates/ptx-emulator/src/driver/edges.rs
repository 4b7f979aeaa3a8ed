//! Edges of graphs: who waits for whom. All are of the default kind: the whole of one node before
//! the whole of the other.

use std::collections::BTreeSet;

use super::abi::{In, Out, report};
use super::code::Code;
use super::node::list;
use super::state::{Handle, State, driver};
use super::{Outcome, api};

/// `CUgraphEdgeData`, of which only zeros have a meaning here.
pub(super) type Edge = [u8; 8];

const DEFAULT: Edge = [0; 8];

/// Several values, all of which are there.
pub(super) fn several(handles: In<Handle>, count: usize) -> Outcome<Vec<Handle>> {
    // More nodes than that are in no graph: the count is wrong.
    const MOST: usize = 1 << 20;
    if count > MOST {
        return Err(Code::INVALID_VALUE);
    }
    (0..count).map(|index| handles.get(index)).collect()
}

/// Whether edges are of the default kind, as all are if nothing is said of them.
pub(super) fn check_default(edges: In<Edge>, count: usize) -> Outcome {
    let is_default = |index| edges.get(index).is_ok_and(|edge| edge == DEFAULT);
    if edges.is_null() || (0..count).all(is_default) {
        return Ok(());
    }
    report(format_args!(
        "edge refused: only edges of the default kind are supported (all bytes of CUgraphEdgeData 0)"
    ));
    Err(Code::NOT_SUPPORTED)
}

/// Pairs of a graph's nodes, from and to.
fn pairs(
    state: &State,
    graph: Handle,
    ends: (In<Handle>, In<Handle>),
    edges: In<Edge>,
    count: usize,
) -> Outcome<Vec<(Handle, Handle)>> {
    state.graph(graph)?;
    let (from, to) = (several(ends.0, count)?, several(ends.1, count)?);
    check_default(edges, count)?;
    let is_own = |node: &Handle| state.nodes.get(node) == Some(&graph);
    if !from.iter().chain(&to).all(is_own) {
        return Err(Code::INVALID_VALUE);
    }
    Ok(from.into_iter().zip(to).collect())
}

fn add(graph: Handle, ends: (In<Handle>, In<Handle>), edges: In<Edge>, count: usize) -> Outcome {
    let mut state = driver()?.state();
    let pairs = pairs(&state, graph, ends, edges, count)?;
    let mut new = BTreeSet::new();
    for &(from, to) in &pairs {
        let is_known = state.node(to)?.after.contains(&from);
        if from == to || is_known || !new.insert((from, to)) {
            return Err(Code::INVALID_VALUE);
        }
    }
    for (from, to) in pairs {
        state.node_mut(to)?.after.push(from);
    }
    Ok(())
}

fn remove(graph: Handle, ends: (In<Handle>, In<Handle>), edges: In<Edge>, count: usize) -> Outcome {
    let mut state = driver()?.state();
    let pairs = pairs(&state, graph, ends, edges, count)?;
    let mut gone = BTreeSet::new();
    for &(from, to) in &pairs {
        if !state.node(to)?.after.contains(&from) || !gone.insert((from, to)) {
            return Err(Code::INVALID_VALUE);
        }
    }
    for (from, to) in pairs {
        state.node_mut(to)?.after.retain(|&before| before != from);
    }
    Ok(())
}

/// Edges of a graph, and the kind of each where it is wanted.
fn all(
    graph: Handle,
    ends: (Out<Handle>, Out<Handle>),
    edges: Out<Edge>,
    count: Out<usize>,
) -> Outcome {
    let state = driver()?.state();
    let nodes = &state.graph(graph)?.nodes;
    let found: Vec<(Handle, Handle)> = nodes
        .iter()
        .flat_map(|node| node.after.iter().map(|&before| (before, node.handle)))
        .collect();
    match (ends.0.is_null(), ends.1.is_null()) {
        (true, true) if edges.is_null() => return count.set(found.len()),
        (false, false) => {}
        _ => return Err(Code::INVALID_VALUE),
    }
    let room = count.readable().get(0)?;
    let (from, to): (Vec<Handle>, Vec<Handle>) = found.into_iter().unzip();
    list(&to, ends.1, count)?;
    count.set(room)?;
    list(&from, ends.0, count)?;
    fill_kinds(edges, from.len().min(room));
    Ok(())
}

fn fill_kinds(edges: Out<Edge>, count: usize) {
    for index in 0..count {
        edges.set_at(index, DEFAULT);
    }
}

fn neighbours(
    found: &[Handle],
    nodes: Out<Handle>,
    edges: Out<Edge>,
    count: Out<usize>,
) -> Outcome {
    if nodes.is_null() && !edges.is_null() {
        return Err(Code::INVALID_VALUE);
    }
    list(found, nodes, count)?;
    fill_kinds(edges, count.readable().get(0)?);
    Ok(())
}

fn before(node: Handle, nodes: Out<Handle>, edges: Out<Edge>, count: Out<usize>) -> Outcome {
    let state = driver()?.state();
    neighbours(&state.node(node)?.after, nodes, edges, count)
}

fn behind(node: Handle, nodes: Out<Handle>, edges: Out<Edge>, count: Out<usize>) -> Outcome {
    let state = driver()?.state();
    let graph = state.graph(state.graph_of(node)?)?;
    let found = graph
        .nodes
        .iter()
        .filter(|other| other.after.contains(&node));
    let found: Vec<Handle> = found.map(|other| other.handle).collect();
    neighbours(&found, nodes, edges, count)
}

api! {
    fn cuGraphAddDependencies(graph: Handle, from: In<Handle>, to: In<Handle>, count: usize) {
        add(graph, (from, to), In::at(0), count)
    }

    fn cuGraphAddDependencies_v2(graph: Handle, from: In<Handle>, to: In<Handle>, edges: In<Edge>, count: usize) {
        add(graph, (from, to), edges, count)
    }

    fn cuGraphRemoveDependencies(graph: Handle, from: In<Handle>, to: In<Handle>, count: usize) {
        remove(graph, (from, to), In::at(0), count)
    }

    fn cuGraphRemoveDependencies_v2(graph: Handle, from: In<Handle>, to: In<Handle>, edges: In<Edge>, count: usize) {
        remove(graph, (from, to), edges, count)
    }

    fn cuGraphGetEdges(graph: Handle, from: Out<Handle>, to: Out<Handle>, count: Out<usize>) {
        all(graph, (from, to), Out::null(), count)
    }

    fn cuGraphGetEdges_v2(graph: Handle, from: Out<Handle>, to: Out<Handle>, edges: Out<Edge>, count: Out<usize>) {
        all(graph, (from, to), edges, count)
    }

    fn cuGraphNodeGetDependencies(node: Handle, nodes: Out<Handle>, count: Out<usize>) {
        before(node, nodes, Out::null(), count)
    }

    fn cuGraphNodeGetDependencies_v2(node: Handle, nodes: Out<Handle>, edges: Out<Edge>, count: Out<usize>) {
        before(node, nodes, edges, count)
    }

    fn cuGraphNodeGetDependentNodes(node: Handle, nodes: Out<Handle>, count: Out<usize>) {
        behind(node, nodes, Out::null(), count)
    }

    fn cuGraphNodeGetDependentNodes_v2(node: Handle, nodes: Out<Handle>, edges: Out<Edge>, count: Out<usize>) {
        behind(node, nodes, edges, count)
    }
}
