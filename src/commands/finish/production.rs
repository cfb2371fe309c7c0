//! The winner, as production starts it and as `autofit.env` describes it.

use crate::commands::workplace::Workplace;
use crate::emit::config::ConfirmedFigures;
use crate::emit::fingerprint::Fingerprint;
use crate::emit::{RunDocument, env};
use crate::model::plan::Device;
use crate::model::{Configuration, Observation, Progress, Purpose, TrialSpec};
use crate::report::assemble::proof_of;
use crate::report::words;
use crate::trial::Launches;
use crate::trial::any::AnyExecutor;
use crate::trial::prepare::for_production;

/// What production runs with: the winner's settings.
pub(super) fn document<P: FnMut(Progress)>(
    place: &Workplace,
    executor: &AnyExecutor<P>,
    winner: &Observation,
) -> RunDocument {
    let spec = TrialSpec::new(winner.settings.clone(), Purpose::Confirm);
    let prepared = executor.prepare(&spec);
    let inspection = executor.inspection();
    let frameworks = inspection.map(|i| i.frameworks.clone()).unwrap_or_default();
    let confirmed = winner.purpose == Purpose::Confirm;
    let effective = winner.knobs.iter().filter_map(|k| Some((k.knob, k.effective.clone()?)));
    RunDocument {
        plan: for_production(&prepared),
        edits: prepared.edits,
        env: prepared.env,
        fingerprint: Fingerprint {
            python: frameworks.get("python").cloned(),
            packages: frameworks,
            device: device_name(place),
            cap_bytes: place.cap.bytes,
            ..Fingerprint::of_command(&place.command, &place.cwd)
        },
        confirmed: ConfirmedFigures {
            samples_per_second: winner.throughput().filter(|_| confirmed),
            peak_bytes: winner.peak(),
            settings: Configuration(effective.collect()),
        },
        slurm: place.cluster.as_ref().map(|_| place.recipe.slurm.words()).unwrap_or_default(),
        nodes: place.cluster.as_ref().map(|cluster| cluster.nodes).filter(|nodes| *nodes > 1),
    }
}

/// What `autofit.env` says of it, for people.
pub(super) fn head(place: &Workplace, winner: &Observation, history: &[Observation]) -> env::Head {
    let figures = winner.timing.as_ref().map(words::throughput);
    let confirmed = match winner.purpose {
        Purpose::Confirm => "in a launch of its own",
        _ => "NO, the search was stopped before",
    };
    env::Head {
        command: place.command.clone(),
        tuned: today(),
        settings: winner.settings.to_string(),
        confirmed: format!(
            "{confirmed}; {}, peak {}",
            figures.unwrap_or_default(),
            words::bytes(winner.peak())
        ),
        cap: words::cap(&winner.cap),
        proved: proof_of(winner, history).map(|proof| {
            format!("needs at most {}, enforced in a launch of its own", words::bytes(proof.cap.bytes))
        }),
    }
}

/// `2026-01-31`, in UTC.
fn today() -> String {
    let days = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| d.as_secs() / 86_400);
    civil(days as i64)
}

/// Days since 1970-01-01 to a date (Howard Hinnant's `civil_from_days`).
fn civil(days: i64) -> String {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

fn device_name(place: &Workplace) -> String {
    match place.device {
        Device::Cpu => "cpu".to_owned(),
        Device::Cuda => {
            let first = place.visible.first().and_then(|i| place.machine.gpus.get(*i));
            first.map_or_else(|| "cuda".to_owned(), |g| g.name.clone())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::civil;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(civil(0), "1970-01-01");
        assert_eq!(civil(11_016), "2000-02-29");
        assert_eq!(civil(20_780), "2026-11-23");
    }
}
