//! How far a trial may be from the baseline; the table is in [`super::parity`].

use crate::model::inspection::Inspection;
use crate::model::parity::Quantity;
use crate::model::{Configuration, Knob, NumericsClass, Value};

/// How a configuration rounds beside the script as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Rounding {
    /// Sums in another order.
    #[default]
    Order,
    /// 11 bits: fp16, TF32, and whatever else is of class precision.
    Eleven,
    /// 8 bits: bf16.
    Eight,
}

/// On what terms two runs are compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Terms {
    /// Of the settings.
    pub rounding: Rounding,
    /// The script itself computes in low precision, where another order of sums shows more.
    pub coarse_script: bool,
    /// The settings draw other random numbers.
    pub other_draws: bool,
    /// The settings change the effective batch.
    pub other_batch: bool,
}

impl Terms {
    /// For these settings in this script.
    pub fn new(settings: &Configuration, found: Option<&Inspection>) -> Self {
        let class = |k: &Knob| found.and_then(|f| f.site(*k)).map_or(k.class(), |s| s.class);
        let any = |wanted: NumericsClass| settings.0.keys().any(|k| class(k) == wanted);
        let rounding = match settings.text(Knob::Amp) {
            Some("bf16") => Rounding::Eight,
            _ if any(NumericsClass::Precision) => Rounding::Eleven,
            _ => Rounding::Order,
        };
        let coarse_script = found
            .and_then(|f| f.detected.as_ref())
            .is_some_and(|d| matches!(d.amp.as_deref(), Some("bf16" | "fp16")));
        Self {
            rounding,
            coarse_script,
            other_draws: any(NumericsClass::Distribution) || moves_dropout(settings, found),
            other_batch: any(NumericsClass::Dynamics),
        }
    }

    /// For launches in which both have the same smaller batch and nothing is drawn.
    #[must_use]
    pub fn without_draws(self) -> Self {
        Self { other_draws: false, other_batch: false, ..self }
    }

    /// A loss scaler may skip steps.
    pub fn may_overflow(&self) -> bool {
        self.rounding != Rounding::Order
    }

    /// What is allowed.
    pub fn bands(&self) -> Bands {
        match (self.rounding, self.coarse_script) {
            (Rounding::Order, false) => ORDER,
            (Rounding::Order, true) => COARSE,
            (Rounding::Eleven, _) => ELEVEN,
            (Rounding::Eight, _) => EIGHT,
        }
    }

    /// What two runs of the script as it is may differ by.
    pub fn of_the_script(&self) -> Bands {
        Self { rounding: Rounding::Order, ..*self }.bands()
    }
}

/// Whether dropout draws other masks: kernels draw in the order of memory, and compiled ones by a generator of theirs.
fn moves_dropout(settings: &Configuration, found: Option<&Inspection>) -> bool {
    let dropout = found.is_some_and(|f| f.roots.iter().any(|r| r.dropout));
    let compiled = settings.text(Knob::Compile).is_some_and(|word| word != "off");
    dropout && (compiled || settings.get(Knob::ChannelsLast) == Some(&Value::Bool(true)))
}

/// Relative differences that are allowed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bands {
    /// At step 0, and at most.
    loss: (f64, f64),
    norm: (f64, f64),
    /// Growth with each step, of the value at step 0.
    growth: f64,
    update: Option<f64>,
    buffers: f64,
    output: f64,
}

const ORDER: Bands = Bands {
    loss: (1e-4, 1e-2),
    norm: (1e-3, 5e-2),
    growth: 1.0,
    update: Some(0.5),
    buffers: 1e-3,
    output: 1e-2,
};
const COARSE: Bands = Bands {
    loss: (1e-3, 2e-2),
    norm: (1e-2, 1e-1),
    growth: 1.0,
    update: Some(0.75),
    buffers: 1e-2,
    output: 5e-2,
};
const ELEVEN: Bands =
    Bands { loss: (5e-3, 5e-2), norm: (5e-2, 2e-1), growth: 0.5, update: None, buffers: 2e-2, output: 1e-1 };
const EIGHT: Bands =
    Bands { loss: (2e-2, 1e-1), norm: (1e-1, 4e-1), growth: 0.5, update: None, buffers: 5e-2, output: 2e-1 };

impl Bands {
    /// Of a quantity at a step; `None` where it is not judged.
    pub fn of(&self, what: Quantity, step: usize) -> Option<f64> {
        let grown = |(first, most): (f64, f64)| (first * (1.0 + self.growth * step as f64)).min(most);
        match what {
            Quantity::Loss => Some(grown(self.loss)),
            Quantity::GradNorm | Quantity::TakenNorm => Some(grown(self.norm)),
            Quantity::Update => self.update,
            Quantity::Buffers => Some(self.buffers),
            Quantity::Output => Some(self.output),
        }
    }
}
