//! Experiment trackers and hubs, asked to stay offline while a trial runs.

use std::ffi::OsString;
use std::path::Path;

/// Variables that make known trackers write to a scratch directory, or nowhere, instead of a server.  TensorBoard
/// needs none: it only writes files.  With `hub_offline` (after the first launch of a search has fetched what it
/// needs) the Hugging Face hub is not asked any more, so that a trial measures no download.
///
/// These are requests to libraries, not a wall: a script that opens a connection by itself is not stopped.
pub fn variables(scratch: &Path, hub_offline: bool) -> Vec<(OsString, OsString)> {
    let mut variables: Vec<(OsString, OsString)> = [
        ("WANDB_MODE", "offline"),
        ("WANDB_SILENT", "true"),
        ("COMET_MODE", "disabled"),
        ("COMET_OFFLINE", "1"),
        ("NEPTUNE_MODE", "offline"),
        ("CLEARML_OFFLINE_MODE", "1"),
        ("SWANLAB_MODE", "offline"),
        ("HF_HUB_DISABLE_TELEMETRY", "1"),
    ]
    .into_iter()
    .map(|(name, value)| (name.into(), value.into()))
    .collect();
    let mut uri = OsString::from("file://");
    uri.push(scratch.join("mlruns"));
    variables.push(("MLFLOW_TRACKING_URI".into(), uri));
    for (name, below) in [
        ("WANDB_DIR", "wandb"),
        ("COMET_OFFLINE_DIRECTORY", "comet"),
        ("CODECARBON_OUTPUT_DIR", "codecarbon"),
    ] {
        variables.push((name.into(), scratch.join(below).into_os_string()));
    }
    if hub_offline {
        for name in ["HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"] {
            variables.push((name.into(), "1".into()));
        }
    }
    variables
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hub_is_offline_only_when_asked() {
        let has = |vars: &[(OsString, OsString)], name: &str| vars.iter().any(|(n, _)| n == name);
        let online = variables(Path::new("/s"), false);
        assert!(has(&online, "WANDB_MODE") && !has(&online, "HF_HUB_OFFLINE"));
        assert!(online.contains(&("MLFLOW_TRACKING_URI".into(), "file:///s/mlruns".into())));
        assert!(has(&variables(Path::new("/s"), true), "HF_HUB_OFFLINE"));
    }
}
