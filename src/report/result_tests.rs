use super::*;
use crate::report::assemble::SummaryInput;
use crate::report::fixtures::{self, assembled};
use crate::report::redact::Redactor;

fn schema() -> jsonschema::Validator {
    let text = include_str!("../../tests/result.schema.json");
    jsonschema::validator_for(&serde_json::from_str(text).unwrap()).unwrap()
}

fn problems(document: &serde_json::Value) -> Vec<String> {
    schema().iter_errors(document).map(|e| format!("{}: {e}", e.instance_path)).collect()
}

#[test]
fn every_result_is_as_the_schema_says_and_round_trips() {
    for (name, input) in fixtures::all() {
        let r = assembled(&input);
        let text = r.to_json().unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(problems(&value), Vec::<String>::new(), "{name}");
        assert_eq!(value.as_object().unwrap().keys().next().unwrap(), "version");
        assert_eq!(serde_json::from_str::<TuneResult>(&text).unwrap(), r, "{name}");
    }
}

#[test]
fn the_schema_knows_every_knob() {
    let schema: serde_json::Value =
        serde_json::from_str(include_str!("../../tests/result.schema.json")).unwrap();
    let named: Vec<_> =
        schema["$defs"]["knob"]["enum"].as_array().unwrap().iter().map(|n| n.as_str()).collect();
    let missing: Vec<_> =
        crate::model::Knob::ALL.iter().filter(|k| !named.contains(&Some(k.name()))).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn the_schema_refuses_what_is_missing_misspelt_or_of_another_kind() {
    let good = serde_json::to_value(assembled(&fixtures::baseline_ooms())).unwrap();
    let spoil = |change: fn(&mut serde_json::Value)| {
        let mut bad = good.clone();
        change(&mut bad);
        problems(&bad).len()
    };
    assert!(spoil(|v| drop(v.as_object_mut().unwrap().remove("cap"))) > 0);
    assert!(spoil(|v| v["cap"]["byte"] = 1.into()) > 0);
    assert!(spoil(|v| v["trials"][0]["verdict"] = "good".into()) > 0);
    assert!(spoil(|v| v["trials"][0]["oom"]["requested_bytes"] = "256 MiB".into()) > 0);
    assert!(spoil(|v| v["winner"]["samples_per_second"]["interval"] = serde_json::json!([1.0])) > 0);
    assert!(spoil(|v| v["trials"][3]["settings"]["no_such_knob"] = 1.into()) > 0);
}

#[test]
fn the_winners_figures_are_those_of_its_confirm_trial() {
    let r = assembled(&fixtures::baseline_ooms());
    let w = r.winner.unwrap();
    assert_eq!((w.trial, r.confirmed.unwrap().trial), (6, 6));
    assert_eq!(w.samples_per_second.unwrap().value, 409.1);
    assert_eq!(r.reference_trial, Some(3), "the first that fits, when the baseline does not");
    assert!((w.relative.unwrap() - 409.1 / 302.0).abs() < 1e-12);
    let parity = w.parity;
    assert_eq!(parity, None, "a baseline that ran out of memory has no losses to compare with");
    assert_eq!(r.trials[3].predicted.as_ref().unwrap().samples_per_second, Some(400.0));
}

#[test]
fn what_a_winner_needs_at_most_is_the_limit_under_which_it_held() {
    let proved = |verdict| {
        let mut input = fixtures::baseline_ooms();
        let proof = fixtures::fit(7, Purpose::Prove, "amp=bf16,accumulation=2", 1240, 405.0, 2.4);
        let cap = input.cap.lowered(Some(1300 << 20));
        input.observations.push(crate::model::Observation { cap, verdict, ..proof });
        assembled(&input)
    };
    let r = proved(Verdict::Fit);
    let value = serde_json::to_value(&r).unwrap();
    assert_eq!(problems(&value), Vec::<String>::new());
    let confirmed = &value["confirmed"];
    assert_eq!((&confirmed["trial"], &confirmed["limit_bytes"]), (&6.into(), &(1536u64 << 20).into()));
    assert_eq!(confirmed["proved"]["limit_bytes"], 1300u64 << 20);
    let style = crate::report::style::Style { width: 120, color: false };
    let said = crate::report::table::summary(&r, style);
    let sentence =
        "needs at most 1.27 GiB: enforced in a launch of its own (trial 7), peak 1.21 GiB, 405 ± 3";
    assert!(said.contains(sentence), "{said}");
    assert_eq!(proved(Verdict::Oom).confirmed.unwrap().proved, None);
}

#[test]
fn a_winner_without_a_confirm_trial_is_not_confirmed() {
    let r = assembled(&fixtures::interrupted());
    assert_eq!(r.winner.unwrap().trial, 2);
    assert_eq!(r.confirmed, None);
    assert_eq!(r.exit_status, 130);
}

#[test]
fn loss_is_compared_with_a_baseline_that_has_one() {
    let mut input = fixtures::baseline_wins();
    input.observations[1].losses = vec![2.301 * 1.001, 2.1];
    input.winner = Some(2);
    let parity = assembled(&input).winner.unwrap().parity.unwrap();
    assert_eq!((parity.with_trial, parity.steps), (Some(1), 2));
    assert!((parity.loss.unwrap() - 0.001).abs() < 1e-5, "{parity:?}");
}

#[test]
fn losses_of_a_confirm_trial_are_those_of_other_data() {
    let mut input = fixtures::baseline_wins();
    let mut confirm = fixtures::fit(4, Purpose::Confirm, "num_workers=2", 901, 600.0, 9.0);
    confirm.losses = vec![9.9, 9.9];
    input.observations.push(confirm);
    input.winner = Some(4);
    let winner = assembled(&input).winner.unwrap();
    assert_eq!((winner.trial, winner.parity.unwrap().loss), (4, Some(0.0)));
}

#[test]
fn a_disturbed_baseline_gives_way_to_its_second_launch() {
    let mut input = fixtures::baseline_wins();
    let mut disturbed = input.observations[0].clone();
    disturbed.verdict = Verdict::Disturbed;
    input.observations[0].trial = 9;
    input.observations.insert(0, disturbed);
    let r = assembled(&input);
    assert_eq!((r.baseline.as_ref().unwrap().trial, r.reference_trial), (9, Some(9)));
    let text = crate::report::table::summary(&r, crate::report::style::Style::PLAIN);
    assert!(text.contains("disturbed  700 MiB   836 MiB    512 ± 4     1.00x"), "{text}");
}

#[test]
fn an_out_of_memory_trial_says_where_and_how_much() {
    let r = assembled(&fixtures::nothing_fits());
    let oom = r.trials[0].oom.as_ref().unwrap();
    assert_eq!((oom.device.as_str(), oom.requested_bytes), ("host", Some(256 << 20)));
    assert_eq!(r.trials[0].measured.headroom_bytes, None);
    assert_eq!(r.trials[2].oom, None);
}

#[test]
fn secrets_of_the_environment_do_not_reach_the_document() {
    let mut input: SummaryInput = fixtures::script_fails();
    input.command.extend(["--hub-token".into(), "sesame-street".into()]);
    input.observations[0].tail.push("login failed for tok-0123456789".into());
    input.observations[0].why = "tok-0123456789 was refused".into();
    let secrets = Redactor::new([("MY_TOKEN".to_owned(), "tok-0123456789".to_owned())]);
    let text = TuneResult::assemble_with(&input, &secrets).to_json().unwrap();
    assert!(!text.contains("tok-0123456789"), "{text}");
    assert!(!text.contains("sesame-street"), "{text}");
    assert!(text.contains("<MY_TOKEN>"));
}
