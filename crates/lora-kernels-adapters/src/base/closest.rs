//! A base model's names by their ends: which are like a name that isn't there.

use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};

use super::BaseModel;
use super::resolve::LISTED;
use crate::steps::step;

/// The most segments of two names' ends that are compared.
const MOST_SEGMENTS: usize = 32;

/// Names sorted by their last segments, then by those before. Names with the same last segments lie
/// together, so what is like a name is found without going through all, and an adapter of
/// thousands of names that the model lacks takes no longer for each.
#[derive(Debug)]
pub(super) struct Closest<'a> {
    sorted: Vec<&'a str>,
    /// The first names, in the names' own order, of those that share their last segments: by the
    /// place of the first of these in `sorted`, and the number of segments.
    firsts: Mutex<HashMap<(usize, usize), Vec<&'a str>>>,
}

impl<'a> Closest<'a> {
    pub fn new(base: &'a BaseModel) -> Self {
        let mut sorted: Vec<&str> = base.names().collect();
        sorted.sort_by(|one, other| by_ends(one, other, MOST_SEGMENTS));
        Self {
            sorted,
            firsts: Mutex::default(),
        }
    }

    /// A few names that share the most last segments with `wanted`, the first names before others.
    /// The last segment alone, such as `weight`, is no similarity.
    pub fn to(&self, wanted: &str) -> Vec<&'a str> {
        let at = self
            .sorted
            .partition_point(|name| by_ends(name, wanted, MOST_SEGMENTS) == Ordering::Less);
        let neighbours = [at.checked_sub(1), Some(at)].into_iter().flatten();
        let shared = { neighbours.filter_map(|at| self.sorted.get(at)) }
            .map(|name| shared(name, wanted))
            .max();
        let mut found: Vec<&'a str> = Vec::new();
        for segments in (2..=shared.unwrap_or_default()).rev() {
            for name in self.firsts(wanted, segments) {
                if found.len() < LISTED && !found.contains(&name) {
                    found.push(name);
                }
            }
            if found.len() == LISTED {
                break;
            }
        }
        found
    }

    /// The first names of those that share this many last segments with `wanted`.
    fn firsts(&self, wanted: &str, segments: usize) -> Vec<&'a str> {
        let order = |name: &str| by_ends(name, wanted, segments);
        let first = self
            .sorted
            .partition_point(|name| order(name) == Ordering::Less);
        // What is kept is whole even if a thread panicked while it held the lock.
        let mut firsts = self.firsts.lock().unwrap_or_else(PoisonError::into_inner);
        let listed = firsts.entry((first, segments)).or_insert_with(|| {
            let mut listed = BTreeSet::new();
            let alike = { self.sorted.iter().skip(first) }
                .take_while(|name| order(name) == Ordering::Equal);
            for name in alike {
                step();
                listed.insert(*name);
                if listed.len() > LISTED {
                    listed.pop_last();
                }
            }
            listed.into_iter().collect()
        });
        listed.clone()
    }
}

/// The order of two names by their last segments, and then by those before, up to this many.
fn by_ends(one: &str, other: &str, segments: usize) -> Ordering {
    step();
    let ends = |name| str::rsplit(name, '.').take(segments);
    ends(one).cmp(ends(other))
}

/// How many last segments two names share.
fn shared(one: &str, other: &str) -> usize {
    let pairs = one.rsplit('.').zip(other.rsplit('.'));
    let alike = pairs.take_while(|(one, other)| one == other);
    alike.take(MOST_SEGMENTS).count()
}
