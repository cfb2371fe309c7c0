//! Which protection there will be, said before anything is launched.

use std::path::PathBuf;

use super::Isolation;
use crate::process::Abilities;

/// A kind of protection that was decided for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Overlay views over everything.
    Overlay,
    /// A copy of the working directory, and writing denied elsewhere.
    Landlock,
    /// A copy of the working directory.
    Copy,
    /// None, as the user asked.
    None,
}

impl Kind {
    /// As `--isolate` spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Overlay => "overlay",
            Self::Landlock => "landlock",
            Self::Copy => "copy",
            Self::None => "none",
        }
    }
}

/// What `autofit plan` and `autofit doctor` show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxPlan {
    /// Which.
    pub kind: Kind,
    /// Sentences on what cannot be changed by a trial.
    pub covers: Vec<String>,
    /// Sentences on what can.
    pub does_not_cover: Vec<String>,
}

/// The kind that was asked for is not to be had.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("--isolate={} does not work here: {reason}; --isolate=auto takes the strongest that does", kind.name())]
pub struct Refusal {
    /// Which.
    pub kind: Kind,
    /// The system's words.
    pub reason: String,
}

/// Decides for a kind.
///
/// # Errors
/// When the one that was asked for does not work here.
pub fn choose(isolation: Isolation, abilities: &Abilities) -> Result<Kind, Refusal> {
    let no_landlock = || "this kernel has no Landlock, or it is switched off".to_owned();
    match isolation {
        Isolation::None => Ok(Kind::None),
        Isolation::Copy => Ok(Kind::Copy),
        Isolation::Overlay => match &abilities.overlay {
            Ok(()) => Ok(Kind::Overlay),
            Err(reason) => Err(Refusal { kind: Kind::Overlay, reason: reason.clone() }),
        },
        Isolation::Landlock => match abilities.landlock {
            Some(_) => Ok(Kind::Landlock),
            None => Err(Refusal { kind: Kind::Landlock, reason: no_landlock() }),
        },
        Isolation::Auto if abilities.overlay.is_ok() => Ok(Kind::Overlay),
        Isolation::Auto if abilities.landlock.is_some() => Ok(Kind::Landlock),
        Isolation::Auto => Ok(Kind::Copy),
    }
}

/// Says what trials can and cannot change.  Launches nothing; `abilities` are found by [`crate::process::abilities`].
///
/// # Errors
/// As [`choose`].
pub fn plan(isolation: Isolation, share: &[PathBuf], abilities: &Abilities) -> Result<SandboxPlan, Refusal> {
    let kind = choose(isolation, abilities)?;
    let mut covers = Vec::new();
    let mut open = Vec::new();
    let say = |list: &mut Vec<String>, text: &str| list.push(text.to_owned());
    match kind {
        Kind::Overlay => {
            say(&mut covers, "every file (trials write to a layer that is thrown away)");
            say(&mut covers, "shared memory (trials have a /dev/shm of their own, as large as the real one)");
            say(&mut open, "new files directly in / (refused in a trial)");
            if abilities.namespaces == Ok(true) {
                say(&mut open, "renaming a directory that was there (fails in a trial with EXDEV)");
                say(&mut open, "changing a large file of another group (fails in a trial with EOVERFLOW)");
            }
        }
        Kind::Landlock => {
            say(
                &mut covers,
                "the working directory (trials run in a copy; large parts are links to the real ones)",
            );
            say(&mut covers, "every other file (writing is denied: a script that does so fails in a trial)");
            say(&mut open, "caches (~/.cache and the like) and /dev/shm (really written)");
            say(&mut open, "modes, owners and times of files");
            if abilities.landlock < Some(3) {
                say(&mut open, "truncate() of a file elsewhere (this kernel's Landlock does not know it)");
            }
        }
        Kind::Copy => {
            say(&mut covers, "the working directory (trials run in a copy)");
            say(&mut covers, "temporary files (TMPDIR)");
            say(&mut open, "absolute paths outside of the working directory, also in HOME (really written)");
            say(&mut open, "parts of the working directory too large to copy (links to the real ones)");
        }
        Kind::None => say(&mut open, "your files (trials write where the script writes)"),
    }
    if abilities.namespaces.is_err() {
        say(
            &mut open,
            "a daemon that the script starts (it may outlive its trial until the next start of autofit)",
        );
    }
    for path in share {
        open.push(format!("{} (--share)", path.display()));
    }
    say(&mut open, "effects over the network (known trackers are asked to stay offline)");
    Ok(SandboxPlan { kind, covers, does_not_cover: open })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn abilities(overlay: bool, landlock: Option<i32>) -> Abilities {
        let result = |ok: bool| if ok { Ok(()) } else { Err("EPERM".to_owned()) };
        Abilities { namespaces: result(overlay).map(|()| false), overlay: result(overlay), landlock }
    }

    #[test]
    fn the_strongest_that_works_is_taken_and_never_none() {
        let auto = |o, l| choose(Isolation::Auto, &abilities(o, l)).unwrap();
        assert_eq!(auto(true, Some(5)), Kind::Overlay);
        assert_eq!(auto(false, Some(5)), Kind::Landlock);
        assert_eq!(auto(false, None), Kind::Copy);
    }

    #[test]
    fn what_was_asked_for_is_had_or_refused() {
        let refused = choose(Isolation::Landlock, &abilities(true, None)).unwrap_err();
        assert!(refused.to_string().starts_with("--isolate=landlock does not work here"));
        assert!(choose(Isolation::Overlay, &abilities(false, None)).is_err());
        assert_eq!(choose(Isolation::None, &abilities(false, None)), Ok(Kind::None));
    }

    #[test]
    fn the_network_is_never_covered() {
        for (isolation, ok) in [(Isolation::Auto, true), (Isolation::Copy, true), (Isolation::None, false)] {
            let plan = plan(isolation, &["/out".into()], &abilities(true, None)).unwrap();
            assert_eq!(!plan.covers.is_empty(), ok);
            assert!(plan.does_not_cover.iter().any(|l| l.contains("network")));
            assert!(plan.does_not_cover.iter().any(|l| l.contains("/out")));
        }
    }
}
