//! Places in memory through which threads synchronise: what the strong writes there have released.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::clock::{Clock, View};
use super::mind::{LEVELS, Seen};

/// Bytes of a place.
const GRAIN: u64 = 4;
const SHARDS: usize = 64;
/// Neighbouring bytes of this many are in one shard, so that an access of a warp needs few locks.
const SHARD_BYTES: u64 = 256;
/// Places of a shard that are told apart. More than these count as one place: that orders more than
/// the program does, never less.
const MOST_PLACES: usize = 1 << 16;
const THE_REST: u64 = u64::MAX;

/// What a strong write releases, by level.
pub(super) type Gift = [Option<View>; LEVELS];

/// What was released with one reach. The last release is joined to the rest when somebody looks:
/// most are never seen.
#[derive(Default)]
struct Released {
    last: Option<View>,
    rest: Option<Arc<Clock>>,
}

impl Released {
    fn add(&mut self, view: View) {
        if let Some(last) = &mut self.last
            && last.is_beside(&view)
        {
            last.known.join(&view.known);
            return;
        }
        self.settle();
        self.last = Some(view);
    }

    fn settle(&mut self) {
        let Some(last) = self.last.take() else {
            return;
        };
        let rest = self
            .rest
            .get_or_insert_with(|| Arc::new(last.clock.clone()));
        Arc::make_mut(rest).learn(&last);
    }

    fn look(&mut self) -> Option<Arc<Clock>> {
        self.settle();
        self.rest.clone()
    }
}

/// Threads that narrow scopes reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Group {
    Block(u64),
    Cluster(u64),
}

#[derive(Default)]
struct Place {
    /// For the whole device.
    wide: Released,
    /// For threads near the writer: whatever the writer's scope was, they are within it.
    near: HashMap<Group, Released>,
}

/// Who accesses a place, as far as scopes go.
#[derive(Clone, Copy)]
pub(super) struct Reach {
    pub block: u64,
    pub cluster: u64,
    /// Of the access.
    pub level: usize,
    /// Whether any operation of the kernel has a narrower scope than the device.
    pub narrow: bool,
}

impl Place {
    fn add(&mut self, reach: Reach, gift: &Gift) {
        let [block, cluster, device] = gift;
        if reach.narrow {
            let groups = [
                (Group::Block(reach.block), block),
                (Group::Cluster(reach.cluster), cluster),
            ];
            for (group, view) in groups.into_iter().take(reach.level + 1) {
                if let Some(view) = view {
                    self.near.entry(group).or_default().add(view.clone());
                }
            }
        }
        if reach.level == LEVELS - 1
            && let Some(view) = device
        {
            let clock = view.clock.clone().without_phases();
            self.wide.add(View {
                clock,
                ..view.clone()
            });
        }
    }

    fn look(&mut self, reach: Reach, seen: &mut Seen) {
        let mut found: Seen = [const { None }; LEVELS];
        if reach.narrow {
            let groups = [Group::Block(reach.block), Group::Cluster(reach.cluster)];
            for (level, group) in groups.into_iter().take(reach.level + 1).enumerate() {
                found[level] = self.near.get_mut(&group).and_then(Released::look);
            }
        }
        if reach.level == LEVELS - 1 {
            found[LEVELS - 1] = self.wide.look();
        }
        for (seen, found) in seen.iter_mut().zip(&found) {
            super::mind::join_seen(seen, found);
        }
    }
}

/// Places by their address divided by [`GRAIN`].
#[derive(Default)]
pub(super) struct Places(HashMap<u64, Place>);

/// The bytes of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub first: u64,
    pub bytes: u32,
}

impl Span {
    fn places(self) -> impl Iterator<Item = u64> {
        self.first / GRAIN..=(self.first + u64::from(self.bytes) - 1) / GRAIN
    }

    /// Whether it covers its places as a whole.
    fn is_whole(self) -> bool {
        self.first.is_multiple_of(GRAIN) && u64::from(self.bytes).is_multiple_of(GRAIN)
    }
}

impl Places {
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// A strong store: what was released there before is gone with the old value.
    pub fn replace(&mut self, span: Span, reach: Reach, gift: &Gift) {
        if span.is_whole() && !self.0.is_empty() {
            for key in span.places() {
                self.0.remove(&key);
            }
        }
        self.add(span, reach, gift);
    }

    /// An atomic operation: it passes on what was released there before (release sequences).
    pub fn add(&mut self, span: Span, reach: Reach, gift: &Gift) {
        if gift.iter().all(Option::is_none) {
            return;
        }
        for key in span.places() {
            let full = self.0.len() >= MOST_PLACES && !self.0.contains_key(&key);
            let key = if full { THE_REST } else { key };
            self.0.entry(key).or_default().add(reach, gift);
        }
    }

    pub fn look(&mut self, span: Span, reach: Reach) -> Seen {
        let mut seen = [const { None }; LEVELS];
        if self.0.is_empty() {
            return seen;
        }
        for key in span.places() {
            if let Some(place) = self.0.get_mut(&key) {
                place.look(reach, &mut seen);
            }
        }
        if self.0.len() > MOST_PLACES
            && let Some(rest) = self.0.get_mut(&THE_REST)
        {
            rest.look(reach, &mut seen);
        }
        seen
    }
}

/// The places of global memory in a launch. An access holds the locks of its places, so that what
/// it finds released belongs to the value that it reads.
pub(in crate::exec) struct SharedPlaces {
    shards: Box<[Mutex<Places>]>,
}

impl Default for SharedPlaces {
    fn default() -> Self {
        SharedPlaces {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
        }
    }
}

/// The locked places of an access.
#[derive(Default)]
pub(super) struct Locked<'p>(Vec<(usize, MutexGuard<'p, Places>)>);

fn shard(address: u64) -> usize {
    (address / SHARD_BYTES) as usize % SHARDS
}

impl SharedPlaces {
    /// Locks the places of all spans. An access is aligned to its size, so that it lies within one
    /// shard.
    pub(super) fn lock(&self, spans: impl Iterator<Item = Span>) -> Locked<'_> {
        let mut wanted = spans.fold(0_u64, |all, span| all | 1 << shard(span.first));
        let mut locked = Vec::with_capacity(wanted.count_ones() as usize);
        while wanted != 0 {
            let index = wanted.trailing_zeros() as usize;
            wanted &= wanted - 1;
            let places = self.shards[index].lock();
            locked.push((index, places.unwrap_or_else(PoisonError::into_inner)));
        }
        Locked(locked)
    }
}

/// Where the places of some bytes are.
pub(super) trait Find {
    fn find(&mut self, span: Span) -> Option<&mut Places>;
}

impl Find for Places {
    fn find(&mut self, _span: Span) -> Option<&mut Places> {
        Some(self)
    }
}

impl Find for Locked<'_> {
    fn find(&mut self, span: Span) -> Option<&mut Places> {
        let index = shard(span.first);
        let found = self.0.iter_mut().find(|(at, _)| *at == index);
        found.map(|(_, places)| &mut **places)
    }
}

#[cfg(test)]
mod tests {
    use super::super::known::Known;
    use super::*;

    fn gift(step: u32) -> Gift {
        let view = View {
            clock: Clock::new(3, 2),
            warp: 1,
            known: Known::all(step),
        };
        [Some(view.clone()), Some(view.clone()), Some(view)]
    }

    fn reach(block: u64, level: usize) -> Reach {
        Reach {
            block,
            cluster: block / 2,
            level,
            narrow: true,
        }
    }

    fn span(first: u64, bytes: u32) -> Span {
        Span { first, bytes }
    }

    /// Up to which step somebody finds block 3's warp 1 released.
    fn found(places: &mut Places, at: u64, block: u64, level: usize) -> bool {
        let seen = places.look(span(at, 4), reach(block, level));
        seen.iter()
            .flatten()
            .any(|clock| clock.of(3, 1).covers(0, 5))
    }

    #[test]
    fn both_scopes_must_include_the_other_thread() {
        for written in 0..LEVELS {
            let mut places = Places::default();
            places.replace(span(8, 4), reach(3, written), &gift(5));
            for read in 0..LEVELS {
                assert!(found(&mut places, 8, 3, read), "the same block");
                let both = written.min(read);
                assert_eq!(found(&mut places, 8, 2, read), both >= 1, "its cluster");
                assert_eq!(found(&mut places, 8, 9, read), both >= 2, "another one");
            }
            assert!(!found(&mut places, 12, 3, 2), "another place");
        }
    }

    #[test]
    fn stores_replace_what_was_released_and_atomics_keep_it() {
        let mut places = Places::default();
        let none = [const { None }; LEVELS];
        places.replace(span(8, 4), reach(3, 2), &gift(5));
        places.add(span(8, 4), reach(7, 2), &none);
        assert!(found(&mut places, 8, 9, 2));
        // Half of a place: the other half may be a flag of its own.
        places.replace(span(8, 2), reach(7, 2), &none);
        assert!(found(&mut places, 8, 9, 2));
        places.replace(span(8, 8), reach(7, 2), &none);
        assert!(!found(&mut places, 8, 9, 2));
    }

    #[test]
    fn places_beyond_the_most_are_one() {
        let mut places = Places::default();
        let most = GRAIN * MOST_PLACES as u64;
        for at in (0..=most).step_by(GRAIN as usize) {
            let step = if at == most { 5 } else { 1 };
            places.add(span(at, 4), reach(3, 2), &gift(step));
        }
        assert!(found(&mut places, most, 9, 2));
        assert!(places.0.len() <= MOST_PLACES + 1);
    }
}
