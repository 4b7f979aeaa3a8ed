//! The forms of entry points whose default stream is the calling thread's own: `_ptsz` of calls
//! that take a stream, `_ptds` of synchronous ones.

use super::abi::{Host, In, Out};
use super::capture as c;
use super::code::Code;
use super::event as e;
use super::graph as g;
use super::launch as l;
use super::pool as p;
use super::rows::{self as r, Copy2D, Copy3D};
use super::state::Handle;
use super::stream::{self as s, PER_THREAD, per_thread};
use super::work::HostFunction;
use super::{Outcome, api, copy as m};

/// The outcome that an entry point has turned into its code.
fn outcome(code: u32) -> Outcome {
    if code == 0 { Ok(()) } else { Err(Code(code)) }
}

/// A synchronous call as an asynchronous one, and the wait for it.
fn over(code: u32) -> Outcome {
    outcome(code)?;
    // SAFETY: the call takes no pointers.
    outcome(unsafe { s::cuStreamSynchronize(PER_THREAD) })
}

/// Defines the forms of calls of a stream, which is named before the others, wherever it stands.
macro_rules! streams {
    ($($stream:ident: $own:ident = $module:ident::$plain:ident($($arg:ident: $ty:ty),*);)*) => {
        api! {
            $(fn $own($($arg: $ty),*) {
                let $stream = per_thread($stream);
                // SAFETY: the arguments are those of this call, whose contract is the same.
                outcome(unsafe { $module::$plain($($arg),*) })
            })*

            fn cuMemcpy_ptds(to: u64, from: u64, bytes: usize) {
                // SAFETY: as above.
                over(unsafe { m::cuMemcpyAsync(to, from, bytes, PER_THREAD) })
            }
            fn cuMemcpyPeer_ptds(to: u64, to_context: Handle, from: u64, from_context: Handle, bytes: usize) {
                // SAFETY: as above.
                over(unsafe { m::cuMemcpyPeerAsync(to, to_context, from, from_context, bytes, PER_THREAD) })
            }
            fn cuMemcpyHtoD_v2_ptds(to: u64, from: Host, bytes: usize) {
                // SAFETY: as above.
                over(unsafe { m::cuMemcpyHtoDAsync_v2(to, from, bytes, PER_THREAD) })
            }
            fn cuMemcpyDtoH_v2_ptds(to: Host, from: u64, bytes: usize) {
                // SAFETY: as above.
                over(unsafe { m::cuMemcpyDtoHAsync_v2(to, from, bytes, PER_THREAD) })
            }
            fn cuMemcpyDtoD_v2_ptds(to: u64, from: u64, bytes: usize) {
                // SAFETY: as above.
                over(unsafe { m::cuMemcpyDtoDAsync_v2(to, from, bytes, PER_THREAD) })
            }
            fn cuMemcpy2D_v2_ptds(copy: In<Copy2D>) {
                // SAFETY: as above.
                over(unsafe { r::cuMemcpy2DAsync_v2(copy, PER_THREAD) })
            }
            fn cuMemcpy2DUnaligned_v2_ptds(copy: In<Copy2D>) {
                // SAFETY: as above.
                over(unsafe { r::cuMemcpy2DAsync_v2(copy, PER_THREAD) })
            }
            fn cuMemcpy3D_v2_ptds(copy: In<Copy3D>) {
                // SAFETY: as above.
                over(unsafe { r::cuMemcpy3DAsync_v2(copy, PER_THREAD) })
            }
            fn cuMemcpy3DPeer_ptds(copy: In<Copy3D>) {
                // SAFETY: as above.
                over(unsafe { r::cuMemcpy3DPeerAsync(copy, PER_THREAD) })
            }
            fn cuMemsetD8_v2_ptds(to: u64, value: u8, count: usize) {
                // SAFETY: as above.
                outcome(unsafe { m::cuMemsetD8Async(to, value, count, PER_THREAD) })
            }
            fn cuMemsetD16_v2_ptds(to: u64, value: u16, count: usize) {
                // SAFETY: as above.
                outcome(unsafe { m::cuMemsetD16Async(to, value, count, PER_THREAD) })
            }
            fn cuMemsetD32_v2_ptds(to: u64, value: u32, count: usize) {
                // SAFETY: as above.
                outcome(unsafe { m::cuMemsetD32Async(to, value, count, PER_THREAD) })
            }
            fn cuMemsetD2D8_v2_ptds(to: u64, pitch: usize, value: u8, width: usize, rows: usize) {
                // SAFETY: as above.
                outcome(unsafe { m::cuMemsetD2D8Async(to, pitch, value, width, rows, PER_THREAD) })
            }
            fn cuMemsetD2D16_v2_ptds(to: u64, pitch: usize, value: u16, width: usize, rows: usize) {
                // SAFETY: as above.
                outcome(unsafe { m::cuMemsetD2D16Async(to, pitch, value, width, rows, PER_THREAD) })
            }
            fn cuMemsetD2D32_v2_ptds(to: u64, pitch: usize, value: u32, width: usize, rows: usize) {
                // SAFETY: as above.
                outcome(unsafe { m::cuMemsetD2D32Async(to, pitch, value, width, rows, PER_THREAD) })
            }
        }
    };
}

streams! {
    stream: cuMemcpyAsync_ptsz = m::cuMemcpyAsync(to: u64, from: u64, bytes: usize, stream: Handle);
    stream: cuMemcpyPeerAsync_ptsz = m::cuMemcpyPeerAsync(to: u64, to_context: Handle, from: u64, from_context: Handle, bytes: usize, stream: Handle);
    stream: cuMemcpyHtoDAsync_v2_ptsz = m::cuMemcpyHtoDAsync_v2(to: u64, from: Host, bytes: usize, stream: Handle);
    stream: cuMemcpyDtoHAsync_v2_ptsz = m::cuMemcpyDtoHAsync_v2(to: Host, from: u64, bytes: usize, stream: Handle);
    stream: cuMemcpyDtoDAsync_v2_ptsz = m::cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: Handle);
    stream: cuMemcpy2DAsync_v2_ptsz = r::cuMemcpy2DAsync_v2(copy: In<Copy2D>, stream: Handle);
    stream: cuMemcpy3DAsync_v2_ptsz = r::cuMemcpy3DAsync_v2(copy: In<Copy3D>, stream: Handle);
    stream: cuMemcpy3DPeerAsync_ptsz = r::cuMemcpy3DPeerAsync(copy: In<Copy3D>, stream: Handle);
    stream: cuMemsetD8Async_ptsz = m::cuMemsetD8Async(to: u64, value: u8, count: usize, stream: Handle);
    stream: cuMemsetD16Async_ptsz = m::cuMemsetD16Async(to: u64, value: u16, count: usize, stream: Handle);
    stream: cuMemsetD32Async_ptsz = m::cuMemsetD32Async(to: u64, value: u32, count: usize, stream: Handle);
    stream: cuMemsetD2D8Async_ptsz = m::cuMemsetD2D8Async(to: u64, pitch: usize, value: u8, width: usize, rows: usize, stream: Handle);
    stream: cuMemsetD2D16Async_ptsz = m::cuMemsetD2D16Async(to: u64, pitch: usize, value: u16, width: usize, rows: usize, stream: Handle);
    stream: cuMemsetD2D32Async_ptsz = m::cuMemsetD2D32Async(to: u64, pitch: usize, value: u32, width: usize, rows: usize, stream: Handle);
    stream: cuMemAllocAsync_ptsz = p::cuMemAllocAsync(address: Out<u64>, bytes: usize, stream: Handle);
    stream: cuMemAllocFromPoolAsync_ptsz = p::cuMemAllocFromPoolAsync(address: Out<u64>, bytes: usize, pool: Handle, stream: Handle);
    stream: cuMemFreeAsync_ptsz = p::cuMemFreeAsync(address: u64, stream: Handle);
    stream: cuStreamGetPriority_ptsz = s::cuStreamGetPriority(stream: Handle, priority: Out<i32>);
    stream: cuStreamGetFlags_ptsz = s::cuStreamGetFlags(stream: Handle, flags: Out<u32>);
    stream: cuStreamGetId_ptsz = s::cuStreamGetId(stream: Handle, id: Out<u64>);
    stream: cuStreamGetDevice_ptsz = s::cuStreamGetDevice(stream: Handle, device: Out<i32>);
    stream: cuStreamGetCtx_ptsz = s::cuStreamGetCtx(stream: Handle, context: Out<Handle>);
    stream: cuStreamGetCtx_v2_ptsz = s::cuStreamGetCtx_v2(stream: Handle, context: Out<Handle>, green: Out<Handle>);
    stream: cuStreamWaitEvent_ptsz = s::cuStreamWaitEvent(stream: Handle, event: Handle, flags: u32);
    stream: cuStreamQuery_ptsz = s::cuStreamQuery(stream: Handle);
    stream: cuStreamSynchronize_ptsz = s::cuStreamSynchronize(stream: Handle);
    stream: cuStreamGetAttribute_ptsz = s::cuStreamGetAttribute(stream: Handle, attribute: u32, value: Out<[u32; 16]>);
    stream: cuStreamSetAttribute_ptsz = s::cuStreamSetAttribute(stream: Handle, attribute: u32, value: In<[u32; 16]>);
    stream: cuStreamBeginCapture_v2_ptsz = c::cuStreamBeginCapture_v2(stream: Handle, mode: u32);
    stream: cuStreamEndCapture_ptsz = c::cuStreamEndCapture(stream: Handle, graph: Out<Handle>);
    stream: cuStreamIsCapturing_ptsz = c::cuStreamIsCapturing(stream: Handle, status: Out<u32>);
    stream: cuStreamGetCaptureInfo_v2_ptsz = c::cuStreamGetCaptureInfo_v2(stream: Handle, status: Out<u32>, id: Out<u64>, graph: Out<Handle>, dependencies: Out<usize>, count: Out<usize>);
    stream: cuStreamGetCaptureInfo_v3_ptsz = c::cuStreamGetCaptureInfo_v3(stream: Handle, status: Out<u32>, id: Out<u64>, graph: Out<Handle>, dependencies: Out<usize>, edges: Out<usize>, count: Out<usize>);
    stream: cuEventRecord_ptsz = e::cuEventRecord(event: Handle, stream: Handle);
    stream: cuEventRecordWithFlags_ptsz = e::cuEventRecordWithFlags(event: Handle, stream: Handle, flags: u32);
    stream: cuLaunchHostFunc_ptsz = s::cuLaunchHostFunc(stream: Handle, function: Option<HostFunction>, argument: Host);
    stream: cuLaunchCooperativeKernel_ptsz = l::cuLaunchCooperativeKernel(function: Handle, gx: u32, gy: u32, gz: u32, bx: u32, by: u32, bz: u32, shared: u32, stream: Handle, pointers: In<Host>);
    stream: cuGraphUpload_ptsz = g::cuGraphUpload(executable: Handle, stream: Handle);
}
