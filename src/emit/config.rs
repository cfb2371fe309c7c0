//! `AUTOFIT_CONFIG`: one versioned document, written as base64url so that every reader of `.env` files takes it
//! unharmed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::fingerprint::Fingerprint;
use crate::agent::{decode_config, encode_config};
use crate::model::arguments::Edit;
use crate::model::{AgentPlan, Configuration, VERSION};

/// The agent's plan for production, and what the launcher adds to the command.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunDocument {
    /// What the agent reads; its fields stand at the top level of the document.
    #[serde(flatten)]
    pub plan: AgentPlan,
    /// What is changed in the user's command.
    pub edits: Vec<Edit>,
    /// Environment variables set by the configuration.
    pub env: BTreeMap<String, String>,
    /// What the figures were measured with.
    pub fingerprint: Fingerprint,
    /// What the confirm trial measured.
    pub confirmed: ConfirmedFigures,
    /// What SLURM was asked for with each trial; empty where it was not asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub slurm: Vec<String>,
    /// Nodes that each trial ran on, where there were several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<u32>,
}

/// What the confirm trial measured; production compares itself with it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ConfirmedFigures {
    /// Throughput; absent when no confirm trial was made (interrupted).
    pub samples_per_second: Option<f64>,
    /// Peak in the memory that the cap is about, bytes.
    pub peak_bytes: Option<u64>,
    /// Values as they were read back.
    pub settings: Configuration,
}

/// A value that is not one of our documents.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Cut off or altered.
    #[error("AUTOFIT_CONFIG is not base64url ({0}); tune again, or restore the line")]
    Encoding(#[from] base64::DecodeError),
    /// Not a document of this version.
    #[error("AUTOFIT_CONFIG cannot be read ({0}); tune again, or restore the line")]
    Document(#[from] serde_json::Error),
    /// From another version of autofit.
    #[error("AUTOFIT_CONFIG has version {0}, this autofit reads version {VERSION}; tune again with this one")]
    Version(u64),
}

impl RunDocument {
    /// The document as a value of letters, digits, `-` and `_`.
    ///
    /// # Errors
    /// None in practice: every field can be serialised.
    pub fn to_base64url(&self) -> serde_json::Result<String> {
        encode_config(self)
    }

    /// Reads [`Self::to_base64url`]; padding is tolerated.
    ///
    /// # Errors
    /// [`ConfigError`], with what to do.
    pub fn from_base64url(text: &str) -> Result<Self, ConfigError> {
        let bytes = decode_config(text)?;
        let value: serde_json::Value = serde_json::from_slice(&bytes)?;
        match value.get("version").and_then(serde_json::Value::as_u64) {
            Some(v) if v != u64::from(VERSION) => Err(ConfigError::Version(v)),
            _ => Ok(serde_json::from_value(value)?),
        }
    }

    /// Whether a plain launch with the environment of `autofit.env` would not be what was measured: arguments, or
    /// knobs that the agent turns, need `autofit run`.
    pub fn needs_run(&self) -> bool {
        use crate::model::plan::Way;
        !self.edits.is_empty()
            || self.plan.ways.values().any(|w| matches!(w, Way::Agent | Way::Framework))
            || self.plan.settings.0.keys().any(|k| !self.plan.ways.contains_key(k))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::model::arguments::Place;
    use crate::model::plan::{Device, Way};
    use crate::model::{AgentMode, Knob, Schedule, Value};

    /// A document as tuning writes it.
    pub(crate) fn document() -> RunDocument {
        let settings = Configuration::baseline().with(Knob::Amp, "bf16").with(Knob::NumWorkers, 2);
        RunDocument {
            plan: AgentPlan {
                version: VERSION,
                nonce: String::new(),
                mode: AgentMode::Run,
                trial_dir: None,
                argv: vec!["python".into(), "train.py".into()],
                device: Device::Cpu,
                settings: settings.clone(),
                options: BTreeMap::new(),
                script_accumulation: 1,
                script_ranks: 1,
                ways: [(Knob::Amp, Way::Agent), (Knob::NumWorkers, Way::Option)].into(),
                windows: Vec::new(),
                schedule: Schedule::default(),
                coverage: None,
                inspect: false,
                cap_bytes: None,
                parity_steps: 0,
                serves: false,
                quiet: false,
                profile: false,
                several_machines: false,
                seed: None,
                required: vec![Knob::Amp],
                training_loader: Some(0),
            },
            edits: Edit::of_words(&["--workers".to_owned(), "2".to_owned()], &Place::default()),
            env: [("OMP_NUM_THREADS".to_owned(), "2".to_owned())].into(),
            fingerprint: Fingerprint {
                script: Some("train.py".into()),
                script_sha256: Some("00".repeat(32)),
                argv: vec!["python".into(), "train.py".into()],
                python: Some("3.11.7".into()),
                packages: [("torch".to_owned(), "2.11.0".to_owned())].into(),
                device: "cpu".into(),
                cap_bytes: Some(3 << 29),
            },
            confirmed: ConfirmedFigures {
                samples_per_second: Some(412.4),
                peak_bytes: Some(1_300_000_000),
                settings,
            },
            slurm: Vec::new(),
            nodes: None,
        }
    }

    #[test]
    fn a_document_round_trips_through_a_value_that_every_reader_takes() {
        let d = document();
        let text = d.to_base64url().unwrap();
        assert!(crate::model::knob::env_safe(&text));
        assert_eq!(RunDocument::from_base64url(&text).unwrap(), d);
        assert_eq!(RunDocument::from_base64url(&format!("{text}==\n")).unwrap(), d);
    }

    #[test]
    fn the_agents_fields_stand_at_the_top_level() {
        let json = serde_json::to_value(document()).unwrap();
        assert_eq!(json["mode"], "run");
        assert_eq!(json["settings"]["amp"], "bf16");
        assert_eq!(json["fingerprint"]["cap_bytes"], 3 << 29);
        let plan: AgentPlan = serde_json::from_value(json).unwrap();
        assert_eq!(plan.settings.get(Knob::Amp), Some(&Value::Text("bf16".into())));
    }

    #[test]
    fn what_is_not_ours_is_told_apart() {
        assert!(matches!(RunDocument::from_base64url("a b"), Err(ConfigError::Encoding(_))));
        assert!(matches!(RunDocument::from_base64url("e30"), Err(ConfigError::Document(_))));
        let other = encode_config(&serde_json::json!({"version": 99})).unwrap();
        assert!(matches!(RunDocument::from_base64url(&other), Err(ConfigError::Version(99))));
    }

    #[test]
    fn only_environment_settings_need_no_run() {
        let mut d = document();
        assert!(d.needs_run());
        d.edits.clear();
        assert!(d.needs_run());
        d.plan.settings = Configuration::baseline().with(Knob::OmpThreads, 2);
        d.plan.ways = [(Knob::OmpThreads, Way::Environment)].into();
        assert!(!d.needs_run());
    }
}
