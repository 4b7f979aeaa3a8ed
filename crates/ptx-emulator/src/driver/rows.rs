//! Copies of rows (2-D) and of layers of rows (3-D) between host and device memory.

use super::abi::{Host, In, is_device_address};
use super::code::Code;
use super::state::{Driver, Handle, current};
use super::work::{Work, refused, submit, to_host};
use super::{Outcome, api, queue};

const HOST: u32 = 1;
const DEVICE: u32 = 2;
const ARRAY: u32 = 3;
const UNIFIED: u32 = 4;

/// `CUDA_MEMCPY2D`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Copy2D {
    from: End2D,
    to: End2D,
    width: usize,
    height: usize,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct End2D {
    x: usize,
    y: usize,
    kind: u32,
    host: Host,
    device: u64,
    array: Handle,
    pitch: usize,
}

/// `CUDA_MEMCPY3D` and, with the fields of the contexts, `CUDA_MEMCPY3D_PEER`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Copy3D {
    from: End3D,
    to: End3D,
    width: usize,
    height: usize,
    depth: usize,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct End3D {
    x: usize,
    y: usize,
    z: usize,
    level: usize,
    kind: u32,
    host: Host,
    device: u64,
    array: Handle,
    /// The context in a copy between peers, and else nothing.
    context: Handle,
    pitch: usize,
    height: usize,
}

impl From<Copy2D> for Copy3D {
    fn from(copy: Copy2D) -> Self {
        let end = |end: End2D| End3D {
            x: end.x,
            y: end.y,
            z: 0,
            level: 0,
            kind: end.kind,
            host: end.host,
            device: end.device,
            array: end.array,
            context: 0,
            pitch: end.pitch,
            height: 0,
        };
        Self {
            from: end(copy.from),
            to: end(copy.to),
            width: copy.width,
            height: copy.height,
            depth: 1,
        }
    }
}

impl Copy3D {
    /// A plain copy, as it can be written as one of rows; `None` for other work.
    pub(super) fn of(work: &Work) -> Option<Self> {
        let host = |host: Host| (HOST, host, 0);
        let device = |address: u64| (DEVICE, Host::new(std::ptr::null_mut()), address);
        let (from, to, bytes) = match *work {
            Work::ToDevice { to, from, bytes } => (host(from), device(to), bytes),
            Work::ToHost { to, from, bytes } => (device(from), host(to), bytes),
            Work::OnDevice { to, from, bytes } => (device(from), device(to), bytes as usize),
            Work::OnHost { to, from, bytes } => (host(from), host(to), bytes),
            _ => return None,
        };
        let end = |(kind, host, device): (u32, Host, u64)| End3D {
            x: 0,
            y: 0,
            z: 0,
            level: 0,
            kind,
            host,
            device,
            array: 0,
            context: 0,
            pitch: 0,
            height: 0,
        };
        Some(Self {
            from: end(from),
            to: end(to),
            width: bytes,
            height: 1,
            depth: 1,
        })
    }
}

/// Where the rows of one side lie.
#[derive(Clone, Copy)]
struct Side {
    is_device: bool,
    /// Of the first row, device or host.
    address: u64,
    /// Bytes from a row to the next.
    pitch: u64,
    /// Bytes from a layer to the next.
    layer: u64,
}

/// A checked copy.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    from: Side,
    to: Side,
    width: u64,
    height: u64,
    depth: u64,
    /// As the program gave it, for a graph's node.
    pub given: Copy3D,
}

impl End3D {
    fn side(&self, copy: &Copy3D) -> Outcome<Side> {
        let (is_device, base) = match self.kind {
            HOST => (false, self.host.address() as u64),
            DEVICE => (true, self.device),
            UNIFIED => (is_device_address(self.device), self.device),
            ARRAY => return Err(Code::NOT_SUPPORTED),
            _ => return Err(Code::INVALID_VALUE),
        };
        let one_layer = copy.depth <= 1 && self.z == 0;
        let one_row = one_layer && copy.height <= 1 && self.y == 0;
        let add = |a: usize, b: usize| a.checked_add(b).ok_or(Code::INVALID_VALUE);
        let pitch_fits = add(self.x, copy.width)? <= self.pitch || one_row && self.pitch == 0;
        let height_fits = one_layer || add(self.y, copy.height)? <= self.height;
        if self.level != 0 || !pitch_fits || !height_fits || self.pitch > i32::MAX as usize {
            return Err(Code::INVALID_VALUE);
        }
        let mul = |a: u64, b: usize| a.checked_mul(b as u64).ok_or(Code::INVALID_VALUE);
        let pitch = self.pitch as u64;
        let layer = mul(pitch, self.height)?;
        let place = [mul(layer, self.z)?, mul(pitch, self.y)?, self.x as u64];
        let address = place
            .iter()
            .try_fold(base, |sum, &part| sum.checked_add(part))
            // Null is found later, unless there is nothing to copy.
            .map(|address| if base == 0 { 0 } else { address });
        Ok(Side {
            is_device,
            address: address.ok_or(Code::INVALID_VALUE)?,
            pitch,
            layer,
        })
    }
}

impl Side {
    fn row(&self, layer: u64, row: u64) -> u64 {
        let layer = self.layer.wrapping_mul(layer);
        let row = self.pitch.wrapping_mul(row);
        self.address.wrapping_add(layer).wrapping_add(row)
    }

    fn host(&self, layer: u64, row: u64) -> Host {
        let address = self.row(layer, row) as usize;
        Host::new(std::ptr::with_exposed_provenance_mut(address))
    }

    /// Whether the rows end before the address space does, and in one allocation if on the device.
    /// Host memory can't be checked.
    fn check(&self, driver: &Driver, rows: &Rows) -> Outcome {
        let reach = (rows.depth - 1)
            .checked_mul(self.layer)
            .zip((rows.height - 1).checked_mul(self.pitch))
            .and_then(|(layers, rows)| layers.checked_add(rows))
            .and_then(|reach| reach.checked_add(rows.width));
        let end = reach.and_then(|reach| self.address.checked_add(reach));
        let end = end.ok_or(Code::INVALID_VALUE)?;
        if !self.is_device {
            let wrong = self.address == 0 || is_device_address(self.address);
            return if wrong {
                Err(Code::INVALID_VALUE)
            } else {
                Ok(())
            };
        }
        match driver.memory.range(self.address) {
            Some((start, bytes)) if end - start <= bytes => Ok(()),
            _ => Err(Code::INVALID_VALUE),
        }
    }
}

impl Rows {
    /// Of a copy without bytes, nothing more is checked.
    pub fn new(copy: &Copy3D) -> Outcome<Self> {
        Ok(Self {
            from: copy.from.side(copy)?,
            to: copy.to.side(copy)?,
            width: copy.width as u64,
            height: copy.height as u64,
            depth: copy.depth as u64,
            given: *copy,
        })
    }

    fn is_empty(&self) -> bool {
        self.width == 0 || self.height == 0 || self.depth == 0
    }

    /// Whether one side is ordinary host memory, with which a copy is over when its call returns.
    pub fn is_pageable(&self, is_pinned: impl Fn(Host, usize) -> bool) -> bool {
        [self.from, self.to].iter().any(|side| {
            let reach = (self.depth.saturating_sub(1))
                .saturating_mul(side.layer)
                .saturating_add(self.height.saturating_sub(1).saturating_mul(side.pitch))
                .saturating_add(self.width);
            let reach = usize::try_from(reach).unwrap_or(usize::MAX);
            !side.is_device && !is_pinned(side.host(0, 0), reach)
        })
    }

    /// Nothing is copied unless all of it can be.
    pub fn run(&self, driver: &Driver) -> Outcome {
        if self.is_empty() {
            return Ok(());
        }
        self.from.check(driver, self)?;
        self.to.check(driver, self)?;
        for layer in 0..self.depth {
            for row in 0..self.height {
                self.copy_row(driver, layer, row)?;
            }
        }
        Ok(())
    }

    fn copy_row(&self, driver: &Driver, layer: u64, row: u64) -> Outcome {
        let (from, to) = (self.from.row(layer, row), self.to.row(layer, row));
        let width = self.width as usize;
        let memory = &driver.memory;
        let done = match (self.to.is_device, self.from.is_device) {
            (true, true) => memory.copy(to, from, self.width),
            (true, false) => memory.write(to, self.from.host(layer, row).bytes(width)?),
            (false, true) => {
                return to_host(driver, from, self.to.host(layer, row).bytes_mut(width)?);
            }
            (false, false) => {
                let from = self.from.host(layer, row);
                return self.to.host(layer, row).copy_from(from, width);
            }
        };
        done.map_err(refused)
    }
}

fn copy(copy: &Copy3D, stream: Option<Handle>) -> Outcome {
    let (driver, context) = current()?;
    let rows = Rows::new(copy)?;
    if !rows.is_empty() {
        rows.from.check(driver, &rows)?;
        rows.to.check(driver, &rows)?;
    }
    submit(
        driver,
        context,
        stream.unwrap_or(0),
        Work::Rows(Box::new(rows)),
    )?;
    if stream.is_none() {
        queue::finish_stream(driver, context, 0);
    }
    driver.state().usable(context)
}

/// A copy between contexts of the one device is a copy.
fn copy_between_peers(given: &Copy3D, stream: Option<Handle>) -> Outcome {
    let (driver, _) = current()?;
    for end in [given.from, given.to] {
        driver.state().usable(end.context)?;
    }
    copy(given, stream)
}

api! {
    fn cuMemcpy2D_v2(given: In<Copy2D>) {
        copy(&given.get(0)?.into(), None)
    }

    fn cuMemcpy2DUnaligned_v2(given: In<Copy2D>) {
        copy(&given.get(0)?.into(), None)
    }

    fn cuMemcpy2DAsync_v2(given: In<Copy2D>, stream: Handle) {
        copy(&given.get(0)?.into(), Some(stream))
    }

    fn cuMemcpy3D_v2(given: In<Copy3D>) {
        copy(&given.get(0)?, None)
    }

    fn cuMemcpy3DAsync_v2(given: In<Copy3D>, stream: Handle) {
        copy(&given.get(0)?, Some(stream))
    }

    fn cuMemcpy3DPeer(given: In<Copy3D>) {
        copy_between_peers(&given.get(0)?, None)
    }

    fn cuMemcpy3DPeerAsync(given: In<Copy3D>, stream: Handle) {
        copy_between_peers(&given.get(0)?, Some(stream))
    }
}
