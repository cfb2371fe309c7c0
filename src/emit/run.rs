//! A document and the command that the user types -> arguments and environment of a production run.  Pure.

use std::collections::BTreeMap;
use std::ffi::OsString;

use super::config::RunDocument;
use super::env::EnvFile;
use crate::agent::{CONFIG_VARIABLE, MODE_VARIABLE};
use crate::model::arguments::apply;

/// A production run, ready to be executed.
#[derive(Debug, Clone, PartialEq)]
pub struct Launch {
    /// The command with the arguments of the configuration.
    pub argv: Vec<OsString>,
    /// Variables to set on top of the environment.
    pub env: BTreeMap<OsString, OsString>,
}

/// Puts the command, the file's variables and the agent together.  `pythonpath` has the agent first.
///
/// # Errors
/// None in practice: the document can be serialised again.
pub fn launch(
    file: &EnvFile,
    command: &[OsString],
    pythonpath: OsString,
    device_cap: Option<u64>,
) -> serde_json::Result<Launch> {
    let argv = apply(command, &file.document.edits);
    let mut plan = file.document.plan.clone();
    plan.argv = argv.iter().map(|a| a.to_string_lossy().into_owned()).collect();
    plan.cap_bytes = device_cap;
    let document = RunDocument { plan, ..file.document.clone() };
    let mut env: BTreeMap<OsString, OsString> =
        file.variables.iter().map(|(k, v)| (k.into(), v.into())).collect();
    env.insert(MODE_VARIABLE.into(), "run".into());
    env.insert(CONFIG_VARIABLE.into(), document.to_base64url()?.into());
    env.insert("PYTHONPATH".into(), pythonpath);
    Ok(Launch { argv, env })
}

/// The option of a Python command that makes it ignore PYTHONPATH or `sitecustomize`, and with them the agent:
/// `-I`, `-E` or `-S`.
pub fn ignores_environment(command: &[OsString]) -> Option<String> {
    let mut words = command.iter().map(|w| w.to_string_lossy());
    let program = words.next()?;
    let name = program.rsplit('/').next().unwrap_or_default();
    if !name.starts_with("python") {
        return None;
    }
    while let Some(word) = words.next() {
        let letters = word.strip_prefix('-').filter(|l| !l.starts_with('-'))?;
        for (at, letter) in letters.char_indices() {
            match letter {
                'I' | 'E' | 'S' => return Some(format!("-{letter}")),
                // What follows is a module or a program, no longer an option.
                'm' | 'c' => return None,
                // These take the rest of the word, or the next one.
                'W' | 'X' => {
                    if at + 1 == letters.len() {
                        words.next();
                    }
                    break;
                }
                _ => {}
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;
    use crate::emit::config::tests::document;

    fn file() -> EnvFile {
        EnvFile { variables: [("OMP_NUM_THREADS".to_owned(), "2".to_owned())].into(), document: document() }
    }

    #[test]
    fn recorded_options_are_set_in_what_the_user_typed() {
        let typed: Vec<OsString> = ["python", "train.py", "--lr", "1"].map(Into::into).to_vec();
        let l = launch(&file(), &typed, "/agent:/mine".into(), Some(7)).unwrap();
        assert_eq!(l.argv, ["python", "train.py", "--lr", "1", "--workers", "2"]);
        let own: Vec<OsString> = ["python", "train.py", "--workers", "0", "x"].map(Into::into).to_vec();
        let replaced = launch(&file(), &own, "/agent".into(), None).unwrap();
        assert_eq!(replaced.argv, ["python", "train.py", "--workers", "2", "x"]);
        assert_eq!(l.env[OsStr::new("PYTHONPATH")], "/agent:/mine");
        assert_eq!(l.env[OsStr::new("OMP_NUM_THREADS")], "2");
        let config = l.env[OsStr::new(CONFIG_VARIABLE)].to_str().unwrap();
        let plan = RunDocument::from_base64url(config).unwrap().plan;
        assert_eq!(plan.argv.last().map(String::as_str), Some("2"));
        assert_eq!(plan.cap_bytes, Some(7));
        assert_eq!(plan.settings, document().plan.settings);
    }

    #[test]
    fn a_python_that_would_not_see_the_agent_is_known() {
        let flag = |line: &str| ignores_environment(&line.split(' ').map(OsString::from).collect::<Vec<_>>());
        assert_eq!(flag("python -I train.py").as_deref(), Some("-I"));
        assert_eq!(flag("/opt/bin/python3.11 -uE train.py").as_deref(), Some("-E"));
        assert_eq!(flag("python -W ignore -S train.py").as_deref(), Some("-S"));
        for fine in [
            "python train.py -I",
            "python -u train.py",
            "python -m pkg -E",
            "python -X dev train.py",
            "torchrun -I",
        ] {
            assert_eq!(flag(fine), None, "{fine}");
        }
    }
}
