//! What graphs are made of: nodes with work, and the order between them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::Outcome;
use super::abi::report;
use super::code::Code;
use super::running::{self, Streams};
use super::state::{Driver, Handle, State};
use super::work::{self, Work};
use super::{event, stream};

/// Graphs in graphs in graphs: a program that nests them deeper is refused.
const DEEPEST: u32 = 32;
/// Nodes of a graph with those of the graphs in it.
const MOST_NODES: usize = 1 << 18;

/// What a node does.
#[derive(Clone)]
pub(super) enum Task {
    Work(Work),
    Empty,
    /// A graph that belongs to the node.
    Child(Handle),
    /// Records an event.
    Record(Handle),
    /// Waits for an event.
    Wait(Handle),
}

impl Task {
    /// `CUgraphNodeType`.
    pub fn node_type(&self) -> u32 {
        match self {
            Task::Work(work) => work.node_type(),
            Task::Child(_) => 4,
            Task::Empty => 5,
            Task::Wait(_) => 6,
            Task::Record(_) => 7,
        }
    }
}

pub(super) struct Node {
    pub handle: Handle,
    pub task: Task,
    /// The nodes that it waits for.
    pub after: Vec<Handle>,
    /// The node that it was cloned from, or 0.
    pub origin: Handle,
}

pub(super) struct Graph {
    pub context: Handle,
    /// In the order in which they were made.
    pub nodes: Vec<Node>,
    /// The graph that it was cloned from, or 0.
    pub origin: Handle,
    /// Whether it belongs to a node.
    pub is_child: bool,
    /// 1 for a graph without graphs in it.
    depth: u32,
    /// Nodes, with those of the graphs in it.
    size: usize,
}

impl Graph {
    pub fn new(context: Handle) -> Self {
        Self {
            context,
            nodes: Vec::new(),
            origin: 0,
            is_child: false,
            depth: 1,
            size: 0,
        }
    }

    pub fn node(&self, handle: Handle) -> Outcome<&Node> {
        let node = self.nodes.iter().find(|node| node.handle == handle);
        node.ok_or(Code::INVALID_VALUE)
    }

    pub fn node_mut(&mut self, handle: Handle) -> Outcome<&mut Node> {
        let node = self.nodes.iter_mut().find(|node| node.handle == handle);
        node.ok_or(Code::INVALID_VALUE)
    }

    /// Where each node is in the list.
    fn places(&self) -> HashMap<Handle, usize> {
        let nodes = self.nodes.iter().enumerate();
        nodes.map(|(place, node)| (node.handle, place)).collect()
    }
}

impl State {
    pub fn graph(&self, graph: Handle) -> Outcome<&Graph> {
        self.graphs.get(&graph).ok_or(Code::INVALID_VALUE)
    }

    /// The graph that a node is part of.
    pub fn graph_of(&self, node: Handle) -> Outcome<Handle> {
        self.nodes.get(&node).copied().ok_or(Code::INVALID_VALUE)
    }

    pub fn node(&self, node: Handle) -> Outcome<&Node> {
        self.graph(self.graph_of(node)?)?.node(node)
    }

    pub fn node_mut(&mut self, node: Handle) -> Outcome<&mut Node> {
        let graph = self.graph_of(node)?;
        let graph = self.graphs.get_mut(&graph).ok_or(Code::INVALID_VALUE)?;
        graph.node_mut(node)
    }

    /// Adds a node behind others of the graph, which must be there.
    pub fn add_node(&mut self, graph: Handle, task: Task, after: &[Handle]) -> Outcome<Handle> {
        let child = match &task {
            Task::Child(child) => Some(*child),
            _ => None,
        };
        let (depth, size) = self.check_room(graph, child)?;
        let mut seen = BTreeSet::new();
        let mut all = after.iter();
        if !all.all(|node| self.nodes.get(node) == Some(&graph) && seen.insert(node)) {
            return Err(Code::INVALID_VALUE);
        }
        let handle = self.handle();
        self.nodes.insert(handle, graph);
        let found = self.graphs.get_mut(&graph).ok_or(Code::INVALID_VALUE)?;
        found.depth = found.depth.max(depth);
        found.size += size;
        found.nodes.push(Node {
            handle,
            task,
            after: after.to_vec(),
            origin: 0,
        });
        Ok(handle)
    }

    /// Whether a graph can take one more node, with the graph that it holds: the depth and the size
    /// that the node adds.
    pub fn check_room(&self, graph: Handle, child: Option<Handle>) -> Outcome<(u32, usize)> {
        let (depth, size) = match child {
            Some(child) => {
                let child = self.graph(child)?;
                (child.depth + 1, child.size + 1)
            }
            None => (1, 1),
        };
        if depth > DEEPEST || self.graph(graph)?.size + size > MOST_NODES {
            report(format_args!(
                "node refused: a graph may be nested {DEEPEST} deep and have {MOST_NODES} nodes in all"
            ));
            return Err(Code::NOT_SUPPORTED);
        }
        Ok((depth, size))
    }

    /// Copies a graph and the graphs in it. A copy that is to belong to a node is a child.
    pub fn clone_graph(&mut self, graph: Handle, is_child: bool) -> Outcome<Handle> {
        let found = self.graph(graph)?;
        let mut copy = Graph {
            context: found.context,
            nodes: Vec::with_capacity(found.nodes.len()),
            origin: graph,
            is_child,
            depth: found.depth,
            size: found.size,
        };
        let originals: Vec<(Handle, Task, Vec<Handle>)> = found
            .nodes
            .iter()
            .map(|node| (node.handle, node.task.clone(), node.after.clone()))
            .collect();
        let handle = self.handle();
        let mut copies = HashMap::new();
        for (origin, _, _) in &originals {
            copies.insert(*origin, self.handle());
        }
        for (origin, task, after) in originals {
            let task = match task {
                Task::Child(child) => Task::Child(self.clone_graph(child, true)?),
                task => task,
            };
            let own = copies.get(&origin).copied().ok_or(Code::INVALID_VALUE)?;
            self.nodes.insert(own, handle);
            copy.nodes.push(Node {
                handle: own,
                task,
                after: after
                    .iter()
                    .filter_map(|node| copies.get(node).copied())
                    .collect(),
                origin,
            });
        }
        self.graphs.insert(handle, copy);
        Ok(handle)
    }

    /// Ends a graph and the graphs in it.
    pub fn remove_graph(&mut self, graph: Handle) {
        let Some(removed) = self.graphs.remove(&graph) else {
            return;
        };
        for node in removed.nodes {
            self.nodes.remove(&node.handle);
            if let Task::Child(child) = node.task {
                self.remove_graph(child);
            }
        }
    }

    /// Takes a node out of its graph.
    pub fn remove_node(&mut self, node: Handle) -> Outcome {
        let graph = self.graph_of(node)?;
        let size = match self.node(node)?.task {
            Task::Child(child) => {
                let size = self.graph(child)?.size;
                self.remove_graph(child);
                size + 1
            }
            _ => 1,
        };
        self.nodes.remove(&node);
        let graph = self.graphs.get_mut(&graph).ok_or(Code::INVALID_VALUE)?;
        graph.size = graph.size.saturating_sub(size);
        graph.nodes.retain(|other| other.handle != node);
        for other in &mut graph.nodes {
            other.after.retain(|&before| before != node);
        }
        Ok(())
    }

    /// A graph as it can be launched.
    pub fn instantiate(&self, graph: Handle, flags: u64) -> Outcome<Executable> {
        let found = self.graph(graph)?;
        let places = found.places();
        let mut steps = Vec::with_capacity(found.nodes.len());
        for node in &found.nodes {
            let child = match node.task {
                Task::Child(child) => Some(Arc::new(self.instantiate(child, flags)?)),
                _ => None,
            };
            let after = node
                .after
                .iter()
                .filter_map(|node| places.get(node).copied());
            steps.push(Step {
                node: node.handle,
                task: node.task.clone(),
                child,
                after: after.collect(),
                is_enabled: true,
            });
        }
        Ok(Executable {
            context: found.context,
            flags,
            order: order(&steps)?,
            steps,
        })
    }

    /// A graph that does what an executable one does, for a node of another.
    pub fn graph_from(&mut self, executable: &Executable) -> Outcome<Handle> {
        let mut made = Graph::new(executable.context);
        made.is_child = true;
        let graph = self.handle();
        self.graphs.insert(graph, made);
        let mut handles: Vec<Handle> = vec![0; executable.steps.len()];
        for &place in &executable.order {
            let step = &executable.steps[place];
            let task = match &step.child {
                _ if !step.is_enabled => Task::Empty,
                Some(child) => Task::Child(self.graph_from(child)?),
                None => step.task.clone(),
            };
            let after: Vec<Handle> = step.after.iter().map(|&before| handles[before]).collect();
            handles[place] = self.add_node(graph, task, &after)?;
        }
        Ok(graph)
    }
}

/// A graph that can be launched.
#[derive(Clone)]
pub(super) struct Executable {
    pub context: Handle,
    pub flags: u64,
    /// In the order of the graph's nodes.
    pub steps: Vec<Step>,
    /// The steps' places in an order that they may be done in.
    order: Vec<usize>,
}

#[derive(Clone)]
pub(super) struct Step {
    /// The graph's node that it was made from.
    pub node: Handle,
    pub task: Task,
    /// What the task [`Task::Child`] launches.
    pub child: Option<Arc<Executable>>,
    /// Places of the steps that it waits for, in any order.
    pub after: Vec<usize>,
    pub is_enabled: bool,
}

/// An order in which the steps may be done: of those that can be next, the first that was made, or
/// the last one where streams are late, so that a missing edge shows.
fn order(steps: &[Step]) -> Outcome<Vec<usize>> {
    let last_first = running::streams() != Streams::Now;
    let mut waits: Vec<usize> = steps.iter().map(|step| step.after.len()).collect();
    let mut behind: Vec<Vec<usize>> = vec![Vec::new(); steps.len()];
    for (place, step) in steps.iter().enumerate() {
        for &before in &step.after {
            behind[before].push(place);
        }
    }
    let places = 0..steps.len();
    let mut ready: BTreeSet<usize> = places.filter(|&place| waits[place] == 0).collect();
    let mut order = Vec::with_capacity(steps.len());
    while let Some(place) = if last_first {
        ready.pop_last()
    } else {
        ready.pop_first()
    } {
        order.push(place);
        for &next in &behind[place] {
            waits[next] -= 1;
            if waits[next] == 0 {
                ready.insert(next);
            }
        }
    }
    if order.len() < steps.len() {
        report(format_args!(
            "graph refused: its nodes wait for each other in a circle"
        ));
        return Err(Code::INVALID_VALUE);
    }
    Ok(order)
}

impl Executable {
    /// The step of a node, here or in a graph in this one.
    pub fn step_mut(&mut self, node: Handle) -> Option<&mut Step> {
        let place = self.steps.iter().position(|step| {
            let child = step.child.as_ref();
            step.node == node || child.is_some_and(|child| child.has(node))
        })?;
        let step = self.steps.get_mut(place)?;
        if step.node == node {
            return Some(step);
        }
        Arc::make_mut(step.child.as_mut()?).step_mut(node)
    }

    pub fn step(&self, node: Handle) -> Option<&Step> {
        self.steps.iter().find_map(|step| {
            let in_child = || step.child.as_ref()?.step(node);
            if step.node == node {
                Some(step)
            } else {
                in_child()
            }
        })
    }

    fn has(&self, node: Handle) -> bool {
        self.step(node).is_some()
    }

    /// Gives a stream, which is not capturing, all of its work.
    pub fn give(&self, driver: &Driver, context: Handle, stream: Handle) -> Outcome {
        for &place in &self.order {
            let Some(step) = self.steps.get(place).filter(|step| step.is_enabled) else {
                continue;
            };
            match (&step.task, &step.child) {
                (_, Some(child)) => child.give(driver, context, stream)?,
                (Task::Work(work), _) => work::give(driver, context, stream, work.clone())?,
                (&Task::Record(event), _) => event::record(event, stream)?,
                (&Task::Wait(event), _) => stream::wait(stream, event)?,
                (Task::Empty | Task::Child(_), _) => {}
            }
        }
        Ok(())
    }
}
