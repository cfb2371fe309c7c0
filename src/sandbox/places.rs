//! Where a command is likely to write, read from its arguments and its environment.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The value of a variable.
fn get<'a>(env: &'a [(OsString, OsString)], name: &str) -> Option<&'a OsStr> {
    let value = env.iter().find(|(n, _)| n == name)?.1.as_os_str();
    (!value.is_empty()).then_some(value)
}

/// Absolute paths that a command names: working directory, home, temporary directory, arguments (`--out=PATH` and
/// plain), values of the environment.
pub(crate) fn named(argv: &[OsString], cwd: &Path, env: &[(OsString, OsString)]) -> Vec<PathBuf> {
    let mut places = vec![cwd.to_owned(), PathBuf::from("/tmp"), PathBuf::from("/var/tmp")];
    for argument in argv {
        let value = argument.as_bytes().splitn(2, |b| *b == b'=').last().unwrap_or_default();
        for text in [argument.as_bytes(), value] {
            let path = Path::new(OsStr::from_bytes(text));
            if path.is_absolute() {
                places.push(path.to_owned());
            } else if text.contains(&b'/') {
                places.push(cwd.join(path));
            }
        }
    }
    // Lists (PATH and the like) name places to read.
    let absolute = |v: &&OsString| v.as_bytes().starts_with(b"/") && !v.as_bytes().contains(&b':');
    places.extend(env.iter().map(|(_, value)| value).filter(absolute).map(PathBuf::from));
    places
}

/// Directories that hold what can be fetched or computed again, and should be once for a whole search.
pub(crate) fn caches(env: &[(OsString, OsString)]) -> Vec<PathBuf> {
    const VARIABLES: [&str; 15] = [
        "XDG_CACHE_HOME",
        "HF_HOME",
        "HF_HUB_CACHE",
        "HUGGINGFACE_HUB_CACHE",
        "HF_DATASETS_CACHE",
        "TRANSFORMERS_CACHE",
        "TORCH_HOME",
        "TORCHINDUCTOR_CACHE_DIR",
        "TORCH_EXTENSIONS_DIR",
        "TRITON_CACHE_DIR",
        "TRITON_HOME",
        "CUDA_CACHE_PATH",
        "NUMBA_CACHE_DIR",
        "KERAS_HOME",
        "NLTK_DATA",
    ];
    const IN_HOME: [&str; 5] = [".cache", ".triton", ".nv/ComputeCache", ".keras", "nltk_data"];
    let mut places: Vec<PathBuf> =
        VARIABLES.iter().filter_map(|name| get(env, name)).map(PathBuf::from).collect();
    if let Some(home) = get(env, "HOME").map(Path::new) {
        places.extend(IN_HOME.iter().map(|below| home.join(below)));
    }
    if get(env, "TORCHINDUCTOR_CACHE_DIR").is_none() {
        let temporary = get(env, "TMPDIR").map_or(PathBuf::from("/tmp"), PathBuf::from);
        // inductor's default is named after the user, as Python's getpass finds the name.
        let user = ["LOGNAME", "USER", "LNAME", "USERNAME"].iter().find_map(|name| get(env, name));
        let user = user.map(OsStr::to_owned).or_else(|| {
            let found = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok()??;
            Some(found.name.into())
        });
        if let Some(user) = user {
            let mut name = OsString::from("torchinductor_");
            name.push(user);
            places.push(temporary.join(name));
        }
    }
    places.retain(|p| p.is_absolute());
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_in_arguments_and_environment() {
        let argv = ["python", "train.py", "--out=/data/run", "--log", "logs/a"].map(OsString::from);
        let env = [("PATH", "/bin:/usr/bin"), ("SAVE_TO", "/big/save")].map(|(n, v)| (n.into(), v.into()));
        let found = named(&argv, Path::new("/home/me"), &env);
        for place in ["/home/me", "/data/run", "/home/me/logs/a", "/big/save"] {
            assert!(found.contains(&PathBuf::from(place)), "{place}");
        }
        assert!(!found.iter().any(|p| p.to_str().unwrap().contains(':')));
    }

    #[test]
    fn caches_follow_the_environment() {
        let env = [("HOME", "/home/me"), ("HF_HOME", "/fast/hf"), ("USER", "me"), ("TORCH_HOME", "relative")];
        let found = caches(&env.map(|(n, v)| (n.into(), v.into())));
        for place in ["/home/me/.cache", "/fast/hf", "/tmp/torchinductor_me"] {
            assert!(found.contains(&PathBuf::from(place)), "{place}");
        }
        assert!(!found.contains(&PathBuf::from("relative")));
    }
}
