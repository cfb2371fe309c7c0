//! A document and the command that the user types -> arguments and environment of a production run.  Pure.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

use super::config::RunDocument;
use super::env::{CONFIG_VARIABLE, EnvFile, MODE_VARIABLE};

/// A production run, ready to be executed.
#[derive(Debug, Clone, PartialEq)]
pub struct Launch {
    /// The command with the arguments of the configuration.
    pub argv: Vec<OsString>,
    /// Variables to set on top of the environment.
    pub env: BTreeMap<OsString, OsString>,
}

/// Puts the command, the file's variables and the agent together.  `pythonpath` is the user's own.
///
/// # Errors
/// None in practice: the document can be serialised again.
pub fn launch(
    file: &EnvFile,
    command: &[OsString],
    agent: &OsStr,
    pythonpath: Option<&OsStr>,
    device_cap: Option<u64>,
) -> serde_json::Result<Launch> {
    let argv: Vec<OsString> =
        command.iter().cloned().chain(file.document.args.iter().map(OsString::from)).collect();
    let mut plan = file.document.plan.clone();
    plan.argv = argv.iter().map(|a| a.to_string_lossy().into_owned()).collect();
    plan.cap_bytes = device_cap;
    let document = RunDocument { plan, ..file.document.clone() };
    let mut env: BTreeMap<OsString, OsString> =
        file.variables.iter().map(|(k, v)| (k.into(), v.into())).collect();
    env.insert(MODE_VARIABLE.into(), "run".into());
    env.insert(CONFIG_VARIABLE.into(), document.to_base64url()?.into());
    env.insert("PYTHONPATH".into(), prepend(agent, pythonpath));
    Ok(Launch { argv, env })
}

/// The agent first, what the user has after it.
fn prepend(agent: &OsStr, pythonpath: Option<&OsStr>) -> OsString {
    let mut path = agent.to_owned();
    if let Some(own) = pythonpath.filter(|p| !p.is_empty()) {
        path.push(":");
        path.push(own);
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::emit::config::tests::document;

    fn file() -> EnvFile {
        EnvFile { variables: [("OMP_NUM_THREADS".to_owned(), "2".to_owned())].into(), document: document() }
    }

    #[test]
    fn recorded_arguments_follow_what_the_user_typed() {
        let typed: Vec<OsString> = ["python", "train.py", "--lr", "1"].map(Into::into).to_vec();
        let l = launch(&file(), &typed, OsStr::new("/agent"), Some(OsStr::new("/mine")), Some(7)).unwrap();
        assert_eq!(l.argv, ["python", "train.py", "--lr", "1", "--workers", "2"]);
        assert_eq!(l.env[OsStr::new("PYTHONPATH")], "/agent:/mine");
        assert_eq!(l.env[OsStr::new("OMP_NUM_THREADS")], "2");
        let config = l.env[OsStr::new(CONFIG_VARIABLE)].to_str().unwrap();
        let plan = RunDocument::from_base64url(config).unwrap().plan;
        assert_eq!(plan.argv.last().map(String::as_str), Some("2"));
        assert_eq!(plan.cap_bytes, Some(7));
        assert_eq!(plan.settings, document().plan.settings);
    }

    #[test]
    fn an_empty_pythonpath_does_not_become_the_working_directory() {
        let l = launch(&file(), &["x".into()], OsStr::new("/agent"), Some(OsStr::new("")), None).unwrap();
        assert_eq!(l.env[OsStr::new("PYTHONPATH")], "/agent");
    }
}
