//! Reductions of many elements, each by itself atomic.

use super::element::flushed;
use crate::decode::op::{Atomic, AtomicKind, AtomicOp, Order, Reduce, Scope, Window};
use crate::exec::atomic;

/// Combines the elements at `to` with those of `from`.
///
/// # Safety
/// `from.len()` bytes at `to` must be valid memory, aligned for the elements.
pub(super) unsafe fn reduce(how: Reduce, to: usize, from: &[u8]) {
    let size = how.kind.bytes();
    let atomic = Atomic {
        window: Window::Global,
        op: how.op,
        kind: how.kind,
        count: 1,
        order: Order::Relaxed,
        scope: Scope::Gpu,
    };
    for (index, bytes) in from.chunks_exact(size as usize).enumerate() {
        let mut raw = [0; 8];
        raw[..bytes.len()].copy_from_slice(bytes);
        let operand = u64::from_le_bytes(raw);
        let update = |now: u64| match (how.op, how.kind) {
            (AtomicOp::Add, AtomicKind::F32) => add_flushed(now, operand),
            _ => atomic::apply(atomic, now, operand, 0),
        };
        // SAFETY: the caller vouches for the place, the size is the elements' own.
        unsafe { atomic::exchange(to + index * size as usize, size, update) };
    }
}

/// A sum of f32 in which values below the normal range are zero (PTX ISA section 9.7.9.25.4.2).
fn add_flushed(now: u64, operand: u64) -> u64 {
    let value = |bits: u64| f32::from_bits(flushed(bits as u32));
    u64::from(flushed((value(now) + value(operand)).to_bits()))
}
