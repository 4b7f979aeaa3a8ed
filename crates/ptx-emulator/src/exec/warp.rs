//! A warp: registers, and its lanes as groups that are at the same place. A divergent branch splits
//! a group; the parts meet again at the branch's join point. Groups run independently, so lanes
//! that wait for each other make progress.

use super::async_copy::Queue;
use super::bulk::Outbound;
use super::cluster_op::Arrived;
use super::poll::Polls;
use super::registers::{FULL, Registers};
use super::space::Bytes;
use super::spin::Spins;

/// No join point: the lanes stay apart until they exit.
pub(crate) const NO_JOIN: u32 = u32::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Ready,
    /// At a block barrier with this number.
    Barrier(u8),
    /// At a `wgmma.wait_group` for what other warps of the warpgroup have yet to issue.
    Warpgroup,
    /// At the cluster's barrier, in this phase.
    Cluster(u32),
    /// At an operation that needs other lanes: those in the mask.
    Rendezvous(u32),
}

/// Lanes at one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    pub pc: u32,
    pub mask: u32,
    /// Index of the join point it is on its way to.
    pub join: u32,
    pub state: State,
}

/// A place where lanes that a branch separated meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Join {
    pc: u32,
    /// Lanes that come here, those that have arrived included.
    expected: u32,
    arrived: u32,
    /// The next join point of the lanes that leave here.
    parent: u32,
}

/// Where all lanes of a warp are.
#[derive(PartialEq, Eq)]
pub(crate) struct Position {
    groups: Vec<Group>,
    joins: Vec<Join>,
}

pub(crate) struct Warp {
    pub regs: Registers,
    pub groups: Vec<Group>,
    joins: Vec<Join>,
    /// Lanes that have not exited.
    pub live: u32,
    pub local: Bytes,
    pub copies: Queue,
    /// Bulk copies of its lanes out of shared memory.
    pub bulk: Outbound,
    pub polls: Polls,
    /// What the lanes wait for on mbarriers.
    pub spins: Spins,
    /// At the cluster's barrier.
    pub arrived: Arrived,
    /// Whether a group of lanes has ended its turn to let other threads run.
    pub gave_way: bool,
    /// Number within the block.
    pub index: u32,
}

impl Warp {
    pub fn new(regs: Registers, local_bytes: usize) -> Warp {
        Warp {
            regs,
            groups: Vec::with_capacity(32),
            joins: Vec::with_capacity(32),
            live: 0,
            local: Bytes::new(local_bytes),
            copies: Queue::default(),
            bulk: Outbound::default(),
            polls: Polls::default(),
            spins: Spins::default(),
            arrived: Arrived::default(),
            gave_way: false,
            index: 0,
        }
    }

    /// Puts the warp at the kernel's start.
    pub fn start(&mut self, index: u32, lanes: u32) {
        self.index = index;
        self.live = lanes;
        self.groups.clear();
        self.groups.push(Group {
            pc: 0,
            mask: lanes,
            join: NO_JOIN,
            state: State::Ready,
        });
        self.joins.clear();
        self.copies.clear();
        self.bulk.clear();
        self.polls.clear();
        self.spins.forget(FULL);
        self.arrived = Arrived::default();
        self.local.clear();
    }

    /// The place where a group's join is, or [`NO_JOIN`].
    pub fn join_pc(&self, join: u32) -> u32 {
        self.joins.get(join as usize).map_or(NO_JOIN, |j| j.pc)
    }

    /// Splits a group at a branch: the lanes in `taken` go to `target`, the others stay. Returns
    /// what remains of the group; the rest is added to the groups.
    pub fn split(&mut self, group: Group, taken: u32, target: u32, join_pc: u32) -> Group {
        let join = if join_pc == NO_JOIN {
            // The lanes never meet again before their next join point.
            group.join
        } else if self.join_pc(group.join) == join_pc {
            group.join
        } else {
            self.add_join(Join {
                pc: join_pc,
                expected: group.mask,
                arrived: 0,
                parent: group.join,
            })
        };
        self.groups.push(Group {
            pc: target,
            mask: taken,
            join,
            state: State::Ready,
        });
        Group {
            pc: group.pc + 1,
            mask: group.mask & !taken,
            join,
            state: State::Ready,
        }
    }

    fn add_join(&mut self, join: Join) -> u32 {
        let free = self.joins.iter().position(|j| j.expected == 0);
        match free {
            Some(index) => {
                self.joins[index] = join;
                index as u32
            }
            None => {
                self.joins.push(join);
                self.joins.len() as u32 - 1
            }
        }
    }

    /// A group has come to its join point. If all lanes are there they go on as one group.
    pub fn arrive(&mut self, group: Group) {
        self.joins[group.join as usize].arrived |= group.mask;
        self.complete(group.join);
    }

    fn complete(&mut self, index: u32) {
        let join = &mut self.joins[index as usize];
        if join.expected == 0 || join.arrived != join.expected {
            return;
        }
        let group = Group {
            pc: join.pc,
            mask: join.arrived,
            join: join.parent,
            state: State::Ready,
        };
        join.expected = 0;
        join.arrived = 0;
        self.groups.push(group);
    }

    /// Lanes have exited: nobody waits for them any more.
    pub fn exit(&mut self, lanes: u32) {
        self.live &= !lanes;
        for index in 0..self.joins.len() {
            let join = &mut self.joins[index];
            if join.expected & lanes != 0 {
                join.expected &= !lanes;
                join.arrived &= !lanes;
                self.complete(index as u32);
            }
        }
    }

    /// Lets lanes go on that have waited at a join point for lanes that can't come before them.
    /// True if there were any.
    pub fn release(&mut self) -> bool {
        let mut released = false;
        for index in 0..self.joins.len() {
            let join = &mut self.joins[index];
            if join.arrived != 0 {
                let group = Group {
                    pc: join.pc,
                    mask: join.arrived,
                    join: join.parent,
                    state: State::Ready,
                };
                join.expected &= !join.arrived;
                join.arrived = 0;
                self.groups.push(group);
                released = true;
            }
        }
        released
    }

    /// Lets lanes pass the cluster's barrier that wait in a phase before `phase`. Which they are.
    pub fn pass(&mut self, phase: u32) -> u32 {
        let mut passed = 0;
        for group in &mut self.groups {
            if let State::Cluster(waits) = group.state
                && waits != phase
            {
                self.arrived.exit(group.mask);
                group.state = State::Ready;
                group.pc += 1;
                passed |= group.mask;
            }
        }
        passed
    }

    /// Whether any lanes can go on.
    pub fn is_ready(&self) -> bool {
        self.groups.iter().any(|group| group.state == State::Ready)
    }

    /// Whether lanes wait at a join point.
    pub fn has_parked(&self) -> bool {
        self.joins.iter().any(|join| join.arrived != 0)
    }

    /// Place and lanes of those who wait at a join point.
    pub fn parked(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        let waiting = self.joins.iter().filter(|join| join.arrived != 0);
        waiting.map(|join| (join.pc, join.arrived))
    }

    pub fn position(&self) -> Position {
        Position {
            groups: self.groups.clone(),
            joins: self.joins.clone(),
        }
    }

    /// Whether all lanes are where they were.
    pub fn is_at(&self, position: &Position) -> bool {
        self.groups == position.groups && self.joins == position.joins
    }

    pub fn all_lanes_live(&self) -> bool {
        self.live == FULL
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masks(warp: &Warp) -> Vec<(u32, u32)> {
        warp.groups.iter().map(|g| (g.pc, g.mask)).collect()
    }

    fn warp() -> Warp {
        let kernel = crate::decode::Kernel::empty();
        let mut warp = Warp::new(Registers::new(&kernel, |_| 0), 0);
        warp.start(0, FULL);
        warp
    }

    #[test]
    fn parts_of_nested_branches_meet_inside_out() {
        let mut warp = warp();
        let whole = warp.groups.pop().unwrap();
        let outer = warp.split(whole, 0xffff_0000, 50, 100);
        let upper = warp.groups.pop().unwrap();
        let inner = warp.split(outer, 0xff, 60, 80);
        let low = warp.groups.pop().unwrap();
        assert_eq!(
            (warp.join_pc(inner.join), warp.join_pc(upper.join)),
            (80, 100)
        );
        warp.arrive(low);
        assert!(warp.groups.is_empty() && warp.has_parked());
        warp.arrive(inner);
        assert_eq!(masks(&warp), [(80, 0xffff)]);
        let merged = warp.groups.pop().unwrap();
        warp.arrive(upper);
        warp.arrive(merged);
        assert_eq!(masks(&warp), [(100, FULL)]);
    }

    #[test]
    fn exited_lanes_are_not_waited_for() {
        let mut warp = warp();
        let whole = warp.groups.pop().unwrap();
        let rest = warp.split(whole, 1, 9, 20);
        warp.groups.clear();
        warp.arrive(rest);
        warp.exit(1);
        assert_eq!(masks(&warp), [(20, FULL - 1)]);
    }

    #[test]
    fn a_loop_reuses_its_join() {
        let mut warp = warp();
        let mut group = warp.groups.pop().unwrap();
        for lane in 0..31 {
            group = warp.split(group, group.mask & !(1 << lane), 5, 30);
            let stays = group;
            group = warp.groups.pop().unwrap();
            warp.arrive(stays);
        }
        assert_eq!(warp.joins.len(), 1);
        warp.arrive(group);
        assert_eq!(masks(&warp), [(30, FULL)]);
    }
}
