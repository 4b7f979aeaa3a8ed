//! `cuGetProcAddress`: entry points by name.

use std::ffi::c_void;

use super::abi::{Name, Out, Symbol};
use super::api;
use super::code::Code;

/// The newest form of an entry point: callers ask for `cuMemAlloc` and get `cuMemAlloc_v2`.
fn find(name: &str) -> Option<*const c_void> {
    let tables: [&[Symbol]; 14] = [
        SYMBOLS,
        super::code::SYMBOLS,
        super::context::SYMBOLS,
        super::copy::SYMBOLS,
        super::device::SYMBOLS,
        super::event::SYMBOLS,
        super::function::SYMBOLS,
        super::graph::SYMBOLS,
        super::launch::SYMBOLS,
        super::memory::SYMBOLS,
        super::module::SYMBOLS,
        super::pool::SYMBOLS,
        super::stream::SYMBOLS,
        super::unsupported::SYMBOLS,
    ];
    ["_v4", "_v3", "_v2", ""].iter().find_map(|suffix| {
        let mut symbols = tables.iter().flat_map(|table| table.iter());
        let found = symbols.find(|symbol| symbol.name.strip_suffix(suffix) == Some(name));
        found.map(|symbol| symbol.address)
    })
}

const FOUND: u32 = 0;
const SYMBOL_NOT_FOUND: u32 = 1;

api! {
    fn cuGetProcAddress_v2(symbol: Name, address: Out<*const c_void>, _version: i32, _flags: u64, status: Out<u32>) {
        match find(symbol.get()?) {
            Some(found) => {
                status.set_if_wanted(FOUND);
                address.set(found)
            }
            None => {
                status.set_if_wanted(SYMBOL_NOT_FOUND);
                address.set(std::ptr::null())?;
                Err(Code::NOT_FOUND)
            }
        }
    }
}
