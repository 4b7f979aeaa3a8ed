//! Entry points that exist so that a program can ask, and get `CUDA_ERROR_NOT_SUPPORTED`: managed
//! memory, memory of other APIs, a profiler, private tables.

use std::sync::Once;

use super::abi::{Host, In, Out, report};
use super::api;
use super::code::Code;
use super::state::Handle;

api! {
    fn cuMemAllocManaged(_address: Out<u64>, _bytes: usize, _flags: u32) {
        Err(Code::NOT_SUPPORTED)
    }
    fn cuMemAdvise_v2(_address: u64, _bytes: usize, _advice: u32, _location: u64) {
        Err(Code::NOT_SUPPORTED)
    }
    fn cuMemPrefetchAsync_v2(_address: u64, _bytes: usize, _location: u64, _flags: u32, _stream: Handle) {
        Err(Code::NOT_SUPPORTED)
    }
    fn cuStreamAttachMemAsync(_stream: Handle, _address: u64, _bytes: usize, _flags: u32) {
        Err(Code::NOT_SUPPORTED)
    }
    fn cuMemHostGetDevicePointer_v2(_address: Out<u64>, _pointer: Host, _flags: u32) {
        Err(Code::NOT_SUPPORTED)
    }
    fn cuImportExternalMemory(_memory: Out<Handle>, _description: Host) {
        Err(Code::NOT_SUPPORTED)
    }
    fn cuDestroyExternalMemory(_memory: Handle) {
        Err(Code::NOT_SUPPORTED)
    }
    fn cuExternalMemoryGetMappedBuffer(_address: Out<u64>, _memory: Handle, _description: Host) {
        Err(Code::NOT_SUPPORTED)
    }
    fn cuProfilerStart() {
        Err(Code::NOT_SUPPORTED)
    }
    fn cuProfilerStop() {
        Err(Code::NOT_SUPPORTED)
    }
    // The tables of functions that NVIDIA's own libraries ask its driver for.
    fn cuGetExportTable(table: Out<usize>, id: In<[u8; 16]>) {
        static SAID: Once = Once::new();
        let [first, second, third, fourth, ..] = id.get(0)?;
        table.set(0)?;
        SAID.call_once(|| {
            report(format_args!(
                "cuGetExportTable: the private table {first:02x}{second:02x}{third:02x}{fourth:02x}... is NVIDIA's and is not \
                 here. NVIDIA's CUDA runtime runs with NVIDIA's driver only; link client/cudart instead (README)"
            ));
        });
        Err(Code::INVALID_VALUE)
    }
}
