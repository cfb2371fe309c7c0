//! What is decided before a helper is started: how strongly a trial is contained and how its files are protected.

use super::abilities::abilities;
use super::launch::{Launch, StartError};
use crate::sandbox::scratch::{Scratch, sweep};
use crate::sandbox::{self, Isolation, View, Wanted};

/// The decisions.
pub(super) struct Prepared {
    pub namespaces: bool,
    pub view: Option<View>,
    /// Holds what the view needs; lives as long as the trial.
    pub scratch: Option<Scratch>,
    /// Sentences on everything that is weaker than it could be.
    pub notes: Vec<String>,
}

pub(super) fn prepare(launch: &Launch) -> Result<Prepared, StartError> {
    let abilities = abilities();
    let mut notes = Vec::new();
    if let Err(error) = &abilities.namespaces {
        notes.push(format!("no PID namespace here ({error}): a daemon of the script may escape"));
    }
    let namespaces = abilities.namespaces.is_ok();
    let mut prepared = Prepared { namespaces, view: None, scratch: None, notes };
    match (launch.isolation, &abilities.overlay) {
        (Isolation::None, _) => {}
        (Isolation::Auto | Isolation::Overlay, Ok(())) => overlay(launch, &mut prepared)?,
        (Isolation::Overlay, Err(error)) => {
            return Err(StartError::Isolation(format!("overlay views: {error}")));
        }
        (Isolation::Auto | Isolation::Landlock | Isolation::Copy, _) => {
            return Err(StartError::Isolation("this kind is not built yet".to_owned()));
        }
    }
    Ok(prepared)
}

fn overlay(launch: &Launch, prepared: &mut Prepared) -> Result<(), StartError> {
    let refused = |e: std::io::Error| StartError::Isolation(e.to_string());
    sweep();
    let scratch = Scratch::create().map_err(refused)?;
    std::fs::create_dir_all(&launch.trial_dir)
        .map_err(|error| StartError::Place { path: launch.trial_dir.clone(), error })?;
    let ours = launch.writable.iter().chain(&launch.share).chain(std::iter::once(&launch.trial_dir));
    let real =
        ours.map(|path| path.canonicalize().map_err(|error| StartError::Place { path: path.clone(), error }));
    let caches = launch
        .cache_layer
        .as_ref()
        .map(|kept| std::fs::create_dir_all(kept).and_then(|()| kept.canonicalize()).map_err(refused));
    let mut places = sandbox::caches(&launch.env);
    places.extend(launch.caches.iter().cloned());
    let wanted = Wanted {
        scratch: scratch.path().to_owned(),
        real: real.collect::<Result<_, _>>()?,
        named: sandbox::named(&launch.argv, &launch.cwd, &launch.env),
        caches: caches.transpose()?.map(|kept| (places, kept)),
        mapped_only: abilities().namespaces == Ok(true),
    };
    prepared.view = Some(sandbox::cover(&wanted).map_err(refused)?);
    prepared.scratch = Some(scratch);
    Ok(())
}
