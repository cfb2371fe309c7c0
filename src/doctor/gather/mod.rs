//! Reads the facts: the only part of the doctor that touches the machine.

mod host;
mod nvidia;
mod python;

use std::ffi::OsString;

use super::facts::{Facts, Launches, Tools};
use crate::process::{abilities, limits};
use crate::sandbox::{self, Isolation, scratch};
use crate::watch::{MachineFacts, NvmlUnavailable};

/// Reads everything; `python` are the words that start the interpreter, empty for the one that `python` names.
pub fn gather(python: &[OsString]) -> Facts {
    let machine = MachineFacts::read(Err(&NvmlUnavailable::NoDriver));
    Facts {
        system: host::system(&machine),
        nvidia: nvidia::read(),
        python: python::ask(python),
        host: host::read(&machine),
        tools: Tools {
            cc: compiler("CC", &["cc", "gcc", "clang"]),
            cxx: compiler("CXX", &["c++", "g++", "clang++"]),
            numactl: on_path(&["numactl"]).is_some(),
        },
        launches: launches(),
    }
}

fn launches() -> Launches {
    let abilities = abilities();
    let (cap, no_cap) = match limits::mechanism() {
        Ok(name) => (Some(name), None),
        Err(why) => (None, Some(why)),
    };
    let mut facts = Launches {
        refused: abilities.overlay.clone().err(),
        contained: abilities.namespaces.is_ok(),
        cap,
        no_cap,
        scratch: scratch::base().ok().and_then(|p| Some((p.display().to_string(), scratch::free(&p)?))),
        ..Launches::default()
    };
    if let Ok(plan) = sandbox::plan(Isolation::Auto, &[], abilities) {
        facts.isolation = plan.kind.name().to_owned();
        facts.open = plan.does_not_cover;
    }
    facts
}

/// The first word of the variable wins, as in PyTorch's own search.
fn compiler(variable: &str, names: &[&str]) -> Option<String> {
    let own = std::env::var(variable).ok().and_then(|v| v.split_whitespace().next().map(str::to_owned));
    own.as_deref().and_then(|own| on_path(&[own])).or_else(|| on_path(names))
}

/// The first of these programs that is there.
fn on_path(names: &[&str]) -> Option<String> {
    use std::os::unix::fs::PermissionsExt as _;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let runs =
        |p: &std::path::Path| p.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    let there = |name: &str| std::env::split_paths(&path).any(|dir| runs(&dir.join(name)));
    names.iter().find(|name| there(name)).map(|name| (*name).to_owned())
}

fn text(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}
