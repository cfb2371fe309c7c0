//! Where nothing fits: how far each configuration was from it, as far as one launch can know.
//!
//! A launch that ran out of memory shows a lower bound of what it needs, never more: the kernel kills at the limit, and
//! an allocator says what it was asked for last.

use super::result::{Trial, TuneResult};
use super::words;
use crate::model::size::Bytes;
use crate::model::{Observation, Purpose, Verdict};

/// At least this much was needed, bytes; `None` where nothing is known.
pub fn at_least(o: &Observation) -> Option<u64> {
    let fields = o.failure.as_ref().map(|f| &f.fields);
    let asked = fields.and_then(|f| Some(f.requested_bytes? + f.allocated_bytes.unwrap_or(0)));
    // It ran into the limit, so it needs more than that, whatever the text says.
    asked.max(o.cap.bytes)
}

/// One sentence for each way of falling short, with all configurations that did: `baseline; malloc=trim: ...`.
pub fn sentences(r: &TuneResult) -> Vec<String> {
    let mut all: Vec<(String, Vec<String>)> = Vec::new();
    for t in r.trials.iter().filter(|t| t.purpose != Purpose::Repeat) {
        let Some(sentence) = sentence(t, r.cap.bytes) else { continue };
        let what = words::what(&t.settings, t.purpose);
        match all.iter_mut().find(|(s, _)| *s == sentence) {
            Some((_, whats)) if whats.contains(&what) => {}
            Some((_, whats)) => whats.push(what),
            None => all.push((sentence, vec![what])),
        }
    }
    all.into_iter().map(|(sentence, whats)| format!("{}: {sentence}", whats.join("; "))).collect()
}

fn sentence(t: &Trial, cap: Option<u64>) -> Option<String> {
    if t.verdict == Verdict::Thrash {
        return Some(format!(
            "ran at the edge of the limit, but only by making room all the time ({})",
            t.why
        ));
    }
    let oom = t.oom.as_ref()?;
    let needed = match (oom.at_least_bytes, cap) {
        (Some(n), Some(cap)) if n > cap => {
            format!("at least {} needed, {} more than allowed", Bytes(n), Bytes(n - cap))
        }
        (_, Some(cap)) => format!("more than {} needed", Bytes(cap)),
        (Some(n), None) => format!("at least {} needed", Bytes(n)),
        (None, None) => "more needed than there is".to_owned(),
    };
    let phase = oom.phase.map_or_else(String::new, |p| format!(" in {}", words::phase_name(p)));
    let steps = match oom.after_steps {
        0 => "before the first step was done".to_owned(),
        n => format!("after {}", words::count(n, "step", "steps")),
    };
    Some(format!("{needed}; memory ran out{phase} {steps}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixtures::{self, assembled};

    #[test]
    fn a_bound_is_stated_as_what_it_is_and_equal_ones_are_said_once() {
        let mut input = fixtures::nothing_fits();
        for (o, steps) in input.observations.iter_mut().zip([0, 0]) {
            o.steps = steps;
        }
        let said = sentences(&assembled(&input));
        assert_eq!(said.len(), 1, "{said:#?}");
        assert!(said[0].starts_with("baseline; accumulation=64, checkpoint=all: "), "{said:#?}");
        assert!(said[0].ends_with("memory ran out in train before the first step was done"), "{said:#?}");

        // An allocator that says what it holds and what it was asked for shows how far it was.
        let failure = input.observations[1].failure.as_mut().unwrap();
        failure.fields.allocated_bytes = Some(1400 << 20);
        failure.fields.requested_bytes = Some(648 << 20);
        input.observations[1].steps = 3;
        let said = sentences(&assembled(&input));
        assert_eq!(
            said[1],
            "accumulation=64, checkpoint=all: at least 2.00 GiB needed, 512 MiB more than allowed; memory ran out in \
             train after 3 steps"
        );
    }
}
