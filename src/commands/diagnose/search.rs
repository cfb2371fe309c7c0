//! `autofit diagnose DIR`: the latest trial of a search that failed, and what its memory held.

use std::path::Path;

use super::describe;
use crate::commands::report;
use crate::exit::{Exit, USAGE};
use crate::model::blocks::Filled;
use crate::model::size::Bytes;
use crate::model::{Failure, Observation};
use crate::report::style::Style;
use crate::report::{blocks, words};

/// Blocks that are shown.
const BLOCKS: usize = 12;

/// What a search knows of a failure.
pub struct Known {
    /// The launch.
    pub trial: u32,
    /// What its output says.
    pub failure: Failure,
    /// What was alive then.
    pub filled: Option<Filled>,
    words: String,
}

/// The latest launch that failed, of the latest search in a folder.
///
/// # Errors
/// [`Exit`] with status 2 where there is none.
pub fn latest(folder: &Path) -> anyhow::Result<Known> {
    let search = report::search(folder)?;
    let known = search.observations.iter().rev().find_map(known);
    known.ok_or_else(|| {
        Exit::new(USAGE, format!("no launch of the search in {} failed", search.dir.display())).into()
    })
}

fn known(o: &Observation) -> Option<Known> {
    Some(Known {
        trial: o.trial,
        failure: o.failure.clone()?,
        filled: o.filled.clone(),
        words: words::what(&o.settings, o.purpose),
    })
}

impl Known {
    /// The text.
    pub fn text(&self, style: Style) -> String {
        let mut out = format!("trial {}, {}: {}", self.trial, self.words, describe(&self.failure));
        if let Some(f) = &self.filled {
            out += &format!("\nWhat filled it, {} in tensors on {}:\n", Bytes(f.bytes), f.device);
            out += &blocks::categories(&f.categories, f.bytes);
            out += "\n";
            out += &blocks::table(&f.blocks, BLOCKS, style);
            out += &f.pieces.as_ref().map_or_else(String::new, |p| blocks::pieces(p, style));
            if f.partial {
                out += "  and more: the look was cut short\n";
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Purpose;
    use crate::report::fixtures;

    #[test]
    fn a_trial_that_could_tell() {
        let o = fixtures::oom(1, Purpose::Baseline, "");
        insta::assert_snapshot!(known(&o).unwrap().text(Style::PLAIN), @r#"
        trial 1, baseline: host out of memory (host_oom)
          the host refused an allocation of 256 MiB (DefaultCPUAllocator)

          requested  256 MiB

        What filled it, 1.07 GiB in tensors on cpu:
          activations                980 MiB   89 %
          optimizer state           80.0 MiB    7 %
          parameters                40.0 MiB    4 %

           768 MiB  12x  activations      -  float32 8192x2048  GeluBackward0
           192 MiB  12x  activations      -  float32 8192x512   AddmmBackward0
          32.0 MiB  8x   optimizer state  -  float32 2048x512   exp_avg
          16.0 MiB  4x   parameters       -  float32 2048x512   h.0.mlp.weight
        "#);
    }

    #[test]
    fn a_trial_that_fits_is_no_failure() {
        assert!(known(&fixtures::fit(1, Purpose::Baseline, "", 700, 512.0, 4.0)).is_none());
    }
}
