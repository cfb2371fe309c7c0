//! Replacing this process by a command.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;

/// Where commands are looked for when the environment has no PATH, as the C library does.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Exit status of `run` when the command is there but cannot be executed.
pub const CANNOT_EXECUTE: i32 = 126;
/// Exit status of `run` when the command is not found.
pub const NOT_FOUND: i32 = 127;

/// Replaces this process by `argv` with exactly this environment, looked up in the environment's PATH.  Terminal,
/// signals and exit status are the command's own from here on.  Returns only when that failed; [`exit_status`] gives
/// the status that a shell would exit with.
pub fn exec_replacing(argv: &[OsString], env: &[(OsString, OsString)]) -> io::Error {
    // Rust programs ignore SIGPIPE, and that would be inherited: `script | head` must end as it does without us.
    // SAFETY: restoring a default disposition runs no code of ours.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    let error = exec(argv, env);
    // SAFETY: as above; we live on.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    error
}

/// 127 when a command is not found, 126 otherwise.
pub fn exit_status(error: &io::Error) -> i32 {
    if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { CANNOT_EXECUTE }
}

/// The lookup and the call, also used by the helper in the process that becomes the script.
pub(super) fn exec(argv: &[OsString], env: &[(OsString, OsString)]) -> io::Error {
    let Some(program) = argv.first() else {
        return io::Error::new(io::ErrorKind::NotFound, "the command is empty");
    };
    let Ok(arguments) = argv.iter().map(|a| c_string(a)).collect::<io::Result<Vec<_>>>() else {
        return io::Error::new(io::ErrorKind::InvalidInput, "an argument holds a NUL byte");
    };
    let mut variables = Vec::with_capacity(env.len());
    for (name, value) in env {
        let mut pair = name.clone();
        pair.push("=");
        pair.push(value);
        match c_string(&pair) {
            Ok(pair) => variables.push(pair),
            Err(error) => return error,
        }
    }
    if program.as_bytes().contains(&b'/') {
        return try_exec(program, &arguments, &variables);
    }
    let path = env.iter().find(|(n, _)| n == "PATH").map_or(OsStr::new(DEFAULT_PATH), |(_, v)| v.as_os_str());
    let mut result = io::Error::from_raw_os_error(libc::ENOENT);
    for dir in path.as_bytes().split(|b| *b == b':') {
        let mut candidate = OsString::from(OsStr::from_bytes(if dir.is_empty() { b"." } else { dir }));
        candidate.push("/");
        candidate.push(program);
        let error = try_exec(&candidate, &arguments, &variables);
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => {}
            // A file that may not be executed is remembered; a directory that may not be searched holds nothing.
            Some(libc::EACCES) if std::path::Path::new(&candidate).exists() => result = error,
            Some(libc::EACCES) => {}
            _ => return error,
        }
    }
    result
}

fn try_exec(program: &OsStr, arguments: &[CString], variables: &[CString]) -> io::Error {
    let program = match c_string(program) {
        Ok(program) => program,
        Err(error) => return error,
    };
    let failed = |e: nix::errno::Errno| io::Error::from_raw_os_error(e as i32);
    let Err(errno) = nix::unistd::execve(&program, arguments, variables);
    if errno != nix::errno::Errno::ENOEXEC {
        return failed(errno);
    }
    // A script without `#!`: shells and execvp run it with sh.
    let shell = c"/bin/sh";
    let mut through_shell = vec![shell.to_owned(), program];
    through_shell.extend_from_slice(arguments.get(1..).unwrap_or_default());
    let Err(errno) = nix::unistd::execve(shell, &through_shell, variables);
    failed(errno)
}

fn c_string(text: &OsStr) -> io::Result<CString> {
    CString::new(text.as_bytes()).map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a NUL byte"))
}
