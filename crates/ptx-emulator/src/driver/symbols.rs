//! `cuGetProcAddress`: entry points by name and CUDA version.

use std::ffi::c_void;

use super::abi::{Name, Out, Symbol};
use super::code::Code;
use super::{Outcome, api, cuda_version, versions};

/// Every entry point of this driver.
fn exported() -> impl Iterator<Item = &'static Symbol> {
    let tables: [&[Symbol]; 24] = [
        SYMBOLS,
        super::capture::SYMBOLS,
        super::code::SYMBOLS,
        super::context::SYMBOLS,
        super::copy::SYMBOLS,
        super::device::SYMBOLS,
        super::edges::SYMBOLS,
        super::event::SYMBOLS,
        super::function::SYMBOLS,
        super::graph::SYMBOLS,
        super::launch::SYMBOLS,
        super::library::SYMBOLS,
        super::memory::SYMBOLS,
        super::memory_ops::SYMBOLS,
        super::module::SYMBOLS,
        super::node::SYMBOLS,
        super::node_kinds::SYMBOLS,
        super::per_thread::SYMBOLS,
        super::pool::SYMBOLS,
        super::rows::SYMBOLS,
        super::stream::SYMBOLS,
        super::tensor_map::SYMBOLS,
        super::unsupported::SYMBOLS,
        super::user_object::SYMBOLS,
    ];
    tables.into_iter().flatten()
}

const FOUND: u32 = 0;
const SYMBOL_NOT_FOUND: u32 = 1;
const VERSION_NOT_SUFFICIENT: u32 = 2;

/// Endings of the forms whose default stream is the calling thread's own: of calls that take a
/// stream, and of the others.
const PER_THREAD: [&str; 2] = ["_ptsz", "_ptds"];

fn address(name: &str) -> Option<*const c_void> {
    exported()
        .find(|symbol| symbol.name == name)
        .map(|symbol| symbol.address)
}

/// The form of an entry point that a program written for `version` expects, or why there is none.
/// An entry point without a form for a default stream per thread gives its plain form, as
/// documented.
fn find(name: &str, version: i32, per_thread: bool) -> Result<*const c_void, u32> {
    let mut known = false;
    let mut newest = None;
    for (since, symbol) in versions::forms(name) {
        let Some(plain) = address(symbol) else {
            continue;
        };
        known = true;
        if since <= version && newest.is_none_or(|(newest, _)| newest < since) {
            let own = PER_THREAD.iter().filter(|_| per_thread);
            let own = own
                .filter_map(|ending| address(&format!("{symbol}{ending}")))
                .next();
            newest = Some((since, own.unwrap_or(plain)));
        }
    }
    let missing = if known {
        VERSION_NOT_SUFFICIENT
    } else {
        SYMBOL_NOT_FOUND
    };
    newest.map(|(_, address)| address).ok_or(missing)
}

/// Flags choose forms for the legacy (1) or the per-thread (2) default stream.
fn look_up(symbol: Name, version: i32, flags: u64) -> Outcome<Result<*const c_void, u32>> {
    if version > cuda_version::reported() || flags > 2 {
        return Err(Code::INVALID_VALUE);
    }
    Ok(find(symbol.get()?, version, flags == 2))
}

api! {
    fn cuGetProcAddress(symbol: Name, address: Out<*const c_void>, version: i32, flags: u64) {
        let found = look_up(symbol, version, flags)?;
        address.set(found.unwrap_or(std::ptr::null()))?;
        found.map(|_| ()).map_err(|_| Code::NOT_FOUND)
    }

    // A symbol that is not there is no error of the call: the status and the null address tell.
    fn cuGetProcAddress_v2(symbol: Name, address: Out<*const c_void>, version: i32, flags: u64, status: Out<u32>) {
        let found = look_up(symbol, version, flags)?;
        address.set(found.unwrap_or(std::ptr::null()))?;
        status.set_if_wanted(found.err().unwrap_or(FOUND));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_point_has_a_version() {
        for Symbol { name, .. } in exported() {
            let mut endings = PER_THREAD.iter();
            let plain = endings.find_map(|ending| name.strip_suffix(ending));
            let plain = plain.unwrap_or(name);
            assert!(
                versions::ALL
                    .iter()
                    .any(|(_, names)| names.contains(&plain)),
                "{name}"
            );
        }
        for name in versions::ALL.iter().flat_map(|(_, names)| names.iter()) {
            assert!(
                exported().any(|symbol| symbol.name == *name),
                "{name} is not exported"
            );
        }
    }

    #[test]
    fn a_version_gets_the_form_that_it_knows() {
        let find = |name, version| find(name, version, false);
        let found = |name, version| find(name, version).ok();
        assert_eq!(found("cuCtxCreate", 13_000), address("cuCtxCreate_v4"));
        assert_eq!(found("cuCtxCreate", 12_040), address("cuCtxCreate_v3"));
        assert_eq!(found("cuCtxCreate", 3_020), address("cuCtxCreate_v2"));
        assert_eq!(find("cuCtxCreate", 2_000), Err(VERSION_NOT_SUFFICIENT));
        assert_eq!(
            found("cuGraphInstantiate", 12_000),
            address("cuGraphInstantiateWithFlags")
        );
        assert_eq!(find("cuTexRefCreate", 13_000), Err(SYMBOL_NOT_FOUND));
        assert_eq!(
            find("cuCtxCreate_v2", 13_000),
            Err(SYMBOL_NOT_FOUND),
            "names are without their version"
        );
    }

    #[test]
    fn a_default_stream_per_thread_has_its_own_form_of_a_launch() {
        assert_eq!(
            find("cuLaunchKernelEx", 13_000, true).ok(),
            address("cuLaunchKernelEx_ptsz")
        );
        assert_eq!(
            find("cuMemcpyHtoD", 13_000, true).ok(),
            address("cuMemcpyHtoD_v2_ptds")
        );
        assert_eq!(
            find("cuMemAlloc", 13_000, true).ok(),
            address("cuMemAlloc_v2")
        );
    }
}
