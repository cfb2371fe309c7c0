//! `autofit diagnose FILE|-|DIR`: what went wrong, from what a program left on its terminal, or from a search.

mod search;

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{ErrorKind, Read, Write as _};
use std::path::Path;

use anyhow::Context as _;
use serde::Serialize;

use crate::exit::{Exit, USAGE};
use crate::model::blocks::Filled;
use crate::model::size::Bytes;
use crate::model::{Configuration, Failure, FailureFields, FailureKind, VERSION};
use crate::report::style::{Stream, Style};
use crate::verdict::failure::{decode, read_failure, rung};

/// Of a longer output the first and the last part are read: it begins with versions and ends with the failure.
const FRONT: usize = 8 << 20;
const BACK: usize = 56 << 20;

#[derive(Serialize)]
struct Report<'a> {
    version: u32,
    #[serde(flatten)]
    failure: &'a Failure,
    /// The settings among `next`, in its order.
    rungs: Vec<Configuration>,
    /// Of a search: which launch, and what was alive when its memory ran out.
    #[serde(skip_serializing_if = "Option::is_none")]
    trial: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    filled: Option<&'a Filled>,
}

impl<'a> Report<'a> {
    fn of(failure: &'a Failure) -> Self {
        Self { version: VERSION, failure, rungs: rungs(failure), trial: None, filled: None }
    }
}

fn rungs(failure: &Failure) -> Vec<Configuration> {
    failure.next.iter().filter_map(|line| rung(line)).collect()
}

/// Reads `file` (`-`: standard input; a folder: its latest search), prints the diagnosis, returns the exit status.
///
/// # Errors
/// When there is nothing to read, or it is not text.
pub fn run(file: &str, json: bool) -> anyhow::Result<i32> {
    let folder = Path::new(file);
    let out = if folder.is_dir() {
        let known = search::latest(folder)?;
        let (trial, filled) = (Some(known.trial), known.filled.as_ref());
        match json {
            true => document(&Report { trial, filled, ..Report::of(&known.failure) })?,
            false => known.text(Style::of(Stream::Stdout)),
        }
    } else {
        let failure = read_failure(&read(file)?, None);
        match json {
            true => document(&Report::of(&failure))?,
            false => describe(&failure),
        }
    };
    match std::io::stdout().write_all(out.as_bytes()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(e).context("cannot write the diagnosis"),
        _ => Ok(0),
    }
}

fn document(report: &Report<'_>) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(report)? + "\n")
}

fn read(file: &str) -> anyhow::Result<String> {
    let usage = |message: String| anyhow::Error::from(Exit::new(USAGE, message));
    let name = if file == "-" { "standard input".to_owned() } else { format!("`{file}`") };
    let bytes =
        if file == "-" { ends(std::io::stdin().lock()) } else { std::fs::File::open(file).and_then(ends) };
    let bytes = bytes.map_err(|e| match e.kind() {
        ErrorKind::NotFound => usage(format!(
            "there is no file {name}; give the file with the program's output, or - for standard input"
        )),
        _ => usage(format!("cannot read {name}: {e}")),
    })?;
    let text = decode(&bytes)
        .ok_or_else(|| usage(format!("{name} is not text; give what the program wrote to its terminal")))?;
    if text.trim().is_empty() {
        return Err(usage(format!(
            "{name} is empty; give what the program wrote, standard error included (`COMMAND > log 2>&1`)"
        )));
    }
    Ok(text)
}

/// The first [`FRONT`] and the last [`BACK`] bytes.
fn ends(mut from: impl Read) -> std::io::Result<Vec<u8>> {
    let mut front = Vec::new();
    from.by_ref().take(FRONT as u64).read_to_end(&mut front)?;
    let mut back: VecDeque<u8> = VecDeque::new();
    let mut chunk = vec![0; 1 << 20];
    let mut left_out = false;
    loop {
        match from.read(&mut chunk) {
            Ok(0) => break,
            Ok(n) => back.extend(&chunk[..n]),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
        if back.len() > BACK {
            back.drain(..back.len() - BACK);
            left_out = true;
        }
    }
    if left_out {
        front.push(b'\n');
    }
    front.extend(back);
    Ok(front)
}

/// The words for each kind.
fn title(kind: FailureKind) -> &'static str {
    match kind {
        FailureKind::GpuOom => "accelerator out of memory (gpu_oom)",
        FailureKind::GpuOomLibrary => "accelerator out of memory, said by a library (gpu_oom_library)",
        FailureKind::HostOom => "host out of memory (host_oom)",
        FailureKind::ShmOom => "shared memory full (shm_oom)",
        FailureKind::WorkerKilled => "data loader worker died (worker_killed)",
        FailureKind::FdLimit => "too many open files (fd_limit)",
        FailureKind::NotMemory => "not memory (not_memory)",
    }
}

fn describe(failure: &Failure) -> String {
    let mut out = format!("{}\n  {}\n", title(failure.kind), failure.cause);
    if let Some(line) = &failure.evidence {
        let _ = writeln!(out, "  read from: {line}");
    }
    let rows = figures(&failure.fields);
    if !rows.is_empty() {
        out.push('\n');
        let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        for (name, value) in rows {
            let _ = writeln!(out, "  {name:width$}  {value}");
        }
    }
    if failure.fragmentation == Some(true) {
        let _ = writeln!(out, "  fragmented: what is reserved but unused is at least half of the request");
    }
    if !failure.next.is_empty() {
        out.push_str("\nWhat to try, in this order:\n");
        for (i, step) in failure.next.iter().enumerate() {
            let _ = writeln!(out, "  {}. {step}", i + 1);
        }
    }
    if let Some(first) = rungs(failure).first() {
        let _ = writeln!(out, "\nOne of them alone is measured by\n  autofit try --set {first} -- COMMAND");
    }
    out
}

fn figures(f: &FailureFields) -> Vec<(&'static str, String)> {
    let mut rows = Vec::new();
    let mut plain = |name, value: Option<String>| rows.extend(value.map(|v| (name, v)));
    let size = |b: Option<u64>| b.map(|b| Bytes(b).to_string());
    plain("device", f.device_index.map(|i| i.to_string()));
    plain("requested", size(f.requested_bytes));
    plain("total or limit", size(f.total_bytes));
    plain("free", size(f.free_bytes));
    plain("allocated by PyTorch", size(f.allocated_bytes));
    plain("reserved, not allocated", size(f.reserved_unallocated_bytes));
    plain("reserved in total", size(f.reserved_total_bytes));
    plain("in private pools", size(f.private_pool_bytes));
    plain("allowed", size(f.allowed_bytes));
    plain("used by this process", size(f.process_in_use_bytes));
    plain("used by others", size(f.other_process_bytes));
    plain("torch", f.torch_version.clone());
    plain("exit status", f.exit_code.map(|c| c.to_string()));
    plain("signal", f.signal.clone());
    rows
}

#[cfg(test)]
mod tests;
