//! Values for arguments: mostly some that a call takes, and else anything.

use std::ffi::{CString, c_void};

use super::entries::Arg::{self, *};
use super::entries::KINDS;
use super::entries::Kind::{self, *};
use super::{Caller, LARGEST_ALLOCATION, NAMES, ROOM};
use crate::random::Random;
use crate::{fatbin, ptx};

const NUMBERS: [u64; 24] = [
    0,
    0,
    1,
    1,
    2,
    3,
    4,
    5,
    8,
    9,
    16,
    32,
    63,
    100,
    148,
    4096,
    4097,
    65_536,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    1 << 40,
    i64::MAX as u64,
    u64::MAX,
];
const EXTENTS: [u64; 12] = [1, 1, 1, 1, 1, 2, 3, 32, 128, 0, 1025, 0xffff_ffff];

fn number(random: &mut Random) -> u64 {
    if random.once_in(2) {
        *random.choose(&[0, 0, 0, 1, 2])
    } else {
        *random.choose(&NUMBERS)
    }
}

/// Mostly one that a launch takes, as there are six.
fn extent(random: &mut Random) -> u64 {
    if random.once_in(20) {
        *random.choose(&EXTENTS)
    } else {
        *random.choose(&[1, 1, 1, 2])
    }
}

unsafe extern "C" fn callback(_argument: *mut c_void) {}

impl Caller {
    fn handle(&self, random: &mut Random, kind: Kind) -> u64 {
        let made_up = *random.choose(&[0, 1, 2, 0x10, u64::MAX, 0xdead_beef]);
        let kind = if random.once_in(16) {
            random.below(KINDS)
        } else {
            kind as usize
        };
        match random.below(24) {
            0 => made_up,
            1 => random
                .choose(&self.dead)
                .wrapping_add(random.below(64) as u64),
            2 => *random.choose(&self.dead),
            _ => self.handles[kind]
                .get(random.below(self.handles[kind].len().max(1)))
                .copied()
                .unwrap_or(made_up),
        }
    }

    fn address(&self, random: &mut Random) -> u64 {
        let live = random.choose(&self.addresses);
        match random.below(8) {
            0 => *random.choose(&[
                0,
                1,
                1 << 40,
                (1 << 40) - 1,
                (1 << 46) - 1,
                1 << 47,
                u64::MAX,
            ]),
            1 => live.wrapping_add(random.below(1 << 23) as u64),
            2 => live
                .wrapping_add(random.below(LARGEST_ALLOCATION + 8) as u64)
                .wrapping_sub(4),
            _ => *live,
        }
    }

    fn bytes(&mut self, random: &mut Random) -> u64 {
        if random.once_in(20) {
            0
        } else {
            self.bytes.as_mut_ptr().expose_provenance() as u64
        }
    }

    /// Parameters of a kernel: mostly addresses, and small numbers.
    fn fill_values(&mut self, random: &mut Random) {
        for index in 0..ROOM {
            self.values[index] = if random.once_in(3) {
                *random.choose(&NUMBERS)
            } else {
                self.address(random)
            };
            self.pointers[index] = (&raw const self.values[index]).expose_provenance() as u64;
        }
    }

    fn parameters(&mut self, random: &mut Random) -> u64 {
        if random.once_in(20) {
            return 0;
        }
        self.fill_values(random);
        self.pointers.as_ptr().expose_provenance() as u64
    }

    fn extra(&mut self, random: &mut Random) -> u64 {
        self.fill_values(random);
        self.structure[0] = *random.choose(&[0, 4, 8, 16, 28, 32, 48, 512]);
        let buffer = self.values.as_ptr().expose_provenance() as u64;
        let size = self.structure.as_ptr().expose_provenance() as u64;
        self.extra = *random.choose(&[
            [1, buffer, 2, size, 0],
            [2, size, 1, buffer, 0],
            [1, buffer, 0, 0, 0],
            [0; 5],
            [7; 5],
        ]);
        self.extra.as_ptr().expose_provenance() as u64
    }

    fn extents(random: &mut Random) -> [u64; 6] {
        std::array::from_fn(|_| extent(random))
    }

    /// Six extents and the shared memory's size as seven 32-bit numbers, from 64-bit word `at` on.
    fn put_shape(&mut self, random: &mut Random, at: usize) {
        let [gx, gy, gz, bx, by, bz] = Self::extents(random).map(|extent| extent & 0xffff_ffff);
        let shared = number(random) & 0xffff_ffff;
        let words = [gx | gy << 32, gz | bx << 32, by | bz << 32, shared];
        self.structure[at..at + 4].copy_from_slice(&words);
    }

    fn config(&mut self, random: &mut Random) -> u64 {
        self.put_shape(random, 0);
        self.structure[4] = self.handle(random, Stream);
        let attributes = random.below(3) as u64;
        self.structure[5] = self.structure[8..].as_ptr().expose_provenance() as u64;
        self.structure[6] = attributes;
        for word in 8..32 {
            self.structure[word] = *random.choose(&NUMBERS) & 0xf;
        }
        self.structure.as_ptr().expose_provenance() as u64
    }

    fn node_parameters(&mut self, random: &mut Random) -> u64 {
        self.structure[0] = self.handle(random, Function);
        self.put_shape(random, 1);
        self.structure[5] = self.parameters(random);
        self.structure[6..9].fill(0);
        self.structure.as_ptr().expose_provenance() as u64
    }

    /// One side of a copy of rows. The host's bytes are more than the rows can reach.
    fn side(&mut self, random: &mut Random, at: usize, is_3d: bool) {
        let small = |random: &mut Random, below: usize| random.below(below) as u64;
        let kind = *random.choose(&[1, 2, 2, 4, 4, 3, 0]);
        // Outside of the device's addresses a copy takes any for one of the host.
        let host = if random.once_in(9) {
            0
        } else {
            self.bytes.as_mut_ptr().expose_provenance() as u64
        };
        let address = match kind {
            4 if random.once_in(2) => host,
            4 => *random.choose(&self.addresses) + random.below(1 << 23) as u64,
            _ => self.address(random),
        };
        let (x, y, z) = (small(random, 8), small(random, 8), small(random, 4));
        let (pitch, rows) = (small(random, 100), small(random, 20));
        let words: &[u64] = if is_3d {
            &[x, y, z, 0, kind, host, address, 0, 0, pitch, rows]
        } else {
            &[x, y, kind, host, address, 0, pitch]
        };
        self.structure[at..at + words.len()].copy_from_slice(words);
    }

    fn rows(&mut self, random: &mut Random, is_3d: bool) -> u64 {
        let words = if is_3d { 11 } else { 7 };
        self.side(random, 0, is_3d);
        self.side(random, words, is_3d);
        for (at, below) in [64, 12, 5]
            .into_iter()
            .enumerate()
            .take(if is_3d { 3 } else { 2 })
        {
            self.structure[2 * words + at] = random.below(below) as u64;
        }
        self.structure.as_ptr().expose_provenance() as u64
    }

    fn fill_parameters(&mut self, random: &mut Random) -> u64 {
        let element = *random.choose(&[1_u64, 2, 4, 4, 3, 0]);
        let words = [
            self.address(random),
            number(random),
            element << 32 | 7,
            number(random),
            number(random),
        ];
        self.structure[..5].copy_from_slice(&words);
        self.structure.as_ptr().expose_provenance() as u64
    }

    fn any_parameters(&mut self, random: &mut Random) -> u64 {
        self.structure.fill(0);
        self.structure[0] = random.below(16) as u64;
        let kind = *random.choose(&[Graph, Event, Event, Function]);
        self.structure[2] = self.handle(random, kind);
        // A host function's place must hold one or null.
        if self.structure[0] == 3 {
            self.structure[2] = 0;
        }
        self.structure.as_ptr().expose_provenance() as u64
    }

    fn nodes(&mut self, random: &mut Random, slot: usize) -> u64 {
        for index in 0..ROOM {
            self.out[slot * ROOM + index] = self.handle(random, Node);
        }
        self.out[slot * ROOM..].as_ptr().expose_provenance() as u64
    }

    fn image(&mut self, random: &mut Random) -> u64 {
        match random.below(5) {
            4 => {
                self.fatbin = fatbin::damaged(random);
                // So short that there are at least the bytes that tell what it is.
                self.fatbin.resize(self.fatbin.len().max(64), 0);
                self.fatbin.as_ptr().expose_provenance() as u64
            }
            0 => random.choose(&fatbin::FATBINS).as_ptr().expose_provenance() as u64,
            1 => {
                let text = ptx::damaged(random).replace('\0', " ");
                self.image = CString::new(text).expect("no NUL is left");
                self.image.as_ptr().expose_provenance() as u64
            }
            2 => c"".as_ptr().expose_provenance() as u64,
            _ => 0,
        }
    }

    pub fn argument(&mut self, random: &mut Random, kind: Arg, slot: usize) -> u64 {
        let room = (&raw mut self.out[slot * ROOM]).expose_provenance() as u64;
        match kind {
            Handle(kind) | Doomed(kind) => self.handle(random, kind),
            Number => number(random),
            Device => *random.choose(&[0, 0, 0, 0, 0, 1, u64::MAX]),
            Address => self.address(random),
            Bytes => self.bytes(random),
            Out | NewHandle(_) | NewAddress | NewHost => {
                self.out[slot * ROOM] = random.below(ROOM) as u64;
                if random.once_in(20) { 0 } else { room }
            }
            HostMemory => match self.hosts.last() {
                Some(&host) if random.once_in(2) => host,
                _ => self.bytes(random),
            },
            Allocation => *random.choose(&[
                0,
                1,
                4,
                100,
                4095,
                LARGEST_ALLOCATION as u64,
                1 << 62,
                i64::MAX as u64,
                u64::MAX,
            ]),
            Unified if random.once_in(2) => self.bytes.as_mut_ptr().expose_provenance() as u64,
            // Below and above the device's addresses a copy takes any for one of the host.
            Unified => *random.choose(&self.addresses) + random.below(1 << 23) as u64,
            Few => random.below(ROOM) as u64,
            Name => random.choose(&NAMES).as_ptr().expose_provenance() as u64,
            Image => self.image(random),
            Extent => extent(random),
            Parameters => self.parameters(random),
            Extra => self.extra(random),
            Config => self.config(random),
            NodeParameters => self.node_parameters(random),
            Rows => self.rows(random, false),
            Layers => self.rows(random, true),
            FillParameters => self.fill_parameters(random),
            CallParameters => {
                let function = (callback as *const c_void).expose_provenance() as u64;
                self.structure[0] = if random.once_in(4) { 0 } else { function };
                self.structure[1] = self.bytes(random);
                self.structure.as_ptr().expose_provenance() as u64
            }
            AnyParameters => self.any_parameters(random),
            Nodes => self.nodes(random, slot),
            NodeCount => *random.choose(&[0, 0, 1, 1, 1, 2, 3, ROOM as u64]),
            Callback if random.once_in(4) => 0,
            Callback => (callback as *const c_void).expose_provenance() as u64,
            Null => 0,
        }
    }
}
