//! Values for knobs.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::knob::{Knob, NumericsClass, Value};

/// Values for knobs; a knob that is absent stays as the script has it.  The empty configuration is the baseline.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Configuration(pub BTreeMap<Knob, Value>);

impl Configuration {
    /// The script as it is.
    pub fn baseline() -> Self {
        Self::default()
    }

    /// Whether nothing is changed.
    pub fn is_baseline(&self) -> bool {
        self.0.is_empty()
    }

    /// The value asked for, if any.
    pub fn get(&self, knob: Knob) -> Option<&Value> {
        self.0.get(&knob)
    }

    /// The whole number asked for, if any.
    pub fn int(&self, knob: Knob) -> Option<i64> {
        match self.get(knob) {
            Some(Value::Int(i)) => Some(*i),
            _ => None,
        }
    }

    /// The word asked for, if any.
    pub fn text(&self, knob: Knob) -> Option<&str> {
        match self.get(knob) {
            Some(Value::Text(t)) => Some(t),
            _ => None,
        }
    }

    /// This configuration with one knob set.
    #[must_use]
    pub fn with(&self, knob: Knob, value: impl Into<Value>) -> Self {
        let mut next = self.clone();
        next.0.insert(knob, value.into());
        next
    }

    /// This configuration with one knob left to the script again.
    #[must_use]
    pub fn without(&self, knob: Knob) -> Self {
        let mut next = self.clone();
        next.0.remove(&knob);
        next
    }

    /// Whether a process that runs with this configuration can be given the other one between two steps: all that differs
    /// can be turned then, or is a smaller batch.  The agent may still have a reason against it (`why_not` of a window).
    pub fn turns_into(&self, other: &Self) -> bool {
        let compiled = [self, other].iter().any(|c| c.text(Knob::Compile).is_some_and(|w| w != "off"));
        self.0.keys().chain(other.0.keys()).filter(|k| self.get(**k) != other.get(**k)).all(|k| match *k {
            // Compiled code is what it was when it was made.
            _ if compiled && !matches!(k, Knob::Optimizer | Knob::SetToNone) => false,
            Knob::BatchSize => match (self.int(*k), other.int(*k)) {
                (own, Some(smaller)) => own.is_none_or(|own| smaller < own),
                (_, None) => false,
            },
            // What the machine gives a process without a word on it is not known.
            Knob::OmpThreads if other.get(*k).is_none() => false,
            k => [self, other].iter().filter_map(|c| c.get(k)).all(|v| k.turns_between_steps(v)),
        })
    }

    /// The loosest class among the knobs that are set.
    pub fn class(&self) -> NumericsClass {
        self.0.keys().map(|k| k.class()).max().unwrap_or(NumericsClass::Exact)
    }
}

impl fmt::Display for Configuration {
    /// `amp=bf16, checkpoint=all`, or `as the script is` for the baseline.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_baseline() {
            return f.write_str("as the script is");
        }
        for (i, (knob, value)) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            write!(f, "{comma}{knob}={value}")?;
        }
        Ok(())
    }
}

impl From<bool> for Value {
    fn from(b: bool) -> Self {
        Self::Bool(b)
    }
}

impl From<i64> for Value {
    fn from(i: i64) -> Self {
        Self::Int(i)
    }
}

impl From<&str> for Value {
    fn from(t: &str) -> Self {
        Self::Text(t.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_as_a_sentence_and_round_trips() {
        let c = Configuration::baseline().with(Knob::Amp, "bf16").with(Knob::Accumulation, 4);
        assert_eq!(c.to_string(), "accumulation=4, amp=bf16");
        let json = serde_json::to_string(&c).unwrap();
        assert_eq!(json, r#"{"accumulation":4,"amp":"bf16"}"#);
        assert_eq!(serde_json::from_str::<Configuration>(&json).unwrap(), c);
        assert_eq!(c.class(), NumericsClass::Precision);
    }

    #[test]
    fn what_can_be_turned_between_two_steps() {
        let base = Configuration::baseline();
        let turns = |own: &Configuration, other: &Configuration| own.turns_into(other);
        assert!(turns(&base, &base));
        assert!(turns(&base, &base.with(Knob::Amp, "bf16").with(Knob::Checkpoint, "all")));
        assert!(turns(&base.with(Knob::Amp, "bf16"), &base), "and taken away");
        assert!(!turns(&base, &base.with(Knob::Amp, "fp16")));
        assert!(!turns(&base.with(Knob::Amp, "fp16"), &base), "what is not live cannot be taken away either");
        assert!(turns(
            &base.with(Knob::Malloc, "retain"),
            &base.with(Knob::Malloc, "retain").with(Knob::Accumulation, 2)
        ));
        assert!(!turns(&base, &base.with(Knob::Malloc, "retain")));
        let compiled = base.with(Knob::Compile, "default");
        assert!(turns(&compiled, &compiled.with(Knob::Optimizer, "fused")));
        assert!(!turns(&compiled, &compiled.with(Knob::Checkpoint, "all")));
        let batch = |n: i64| base.with(Knob::BatchSize, n);
        assert!(turns(&base, &batch(8)) && turns(&batch(8), &batch(4)));
        assert!(!turns(&batch(8), &batch(16)) && !turns(&batch(8), &base));
        let threads = base.with(Knob::OmpThreads, 2);
        assert!(turns(&base, &threads) && !turns(&threads, &base));
    }
}
