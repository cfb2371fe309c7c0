//! Switches of a framework beside options and the agent.

use super::*;

#[test]
fn a_frameworks_switch_goes_before_the_agents_patch() {
    let site = script().with(|s| s.switches = vec![switch(Knob::Amp, None, false)]).site(Knob::Amp);
    assert_eq!((site.way, site.how.as_str()), (Some(Way::Framework), "TrainingArguments.bf16"));
    assert_eq!((site.current.as_deref(), site.values.len()), (Some("off"), 2));
}

#[test]
fn an_option_goes_before_the_frameworks_switch_that_it_sets() {
    let site = script().with(|s| {
        s.options = vec![option("--per_device_train_batch_size", "int", "32")];
        s.switches = vec![switch(Knob::BatchSize, None, false)];
    });
    assert_eq!(site.site(Knob::BatchSize).way, Some(Way::Option));
}

#[test]
fn a_switch_that_cannot_be_used_is_refused_by_name_or_left_to_the_agent() {
    let unknown = "transformers 9.1 is not known to this version (known: 4.46 to 5.x)";
    let refused = script().with(|s| s.switches = vec![switch(Knob::Amp, Some(unknown), false)]);
    assert_eq!(refused.why_not(Knob::Amp), unknown);
    let why = "the loss of Bert ignores num_items_in_batch: gradients would be too large";
    let site = script().with(|s| s.switches = vec![switch(Knob::Accumulation, Some(why), true)]);
    let site = site.site(Knob::Accumulation);
    assert_eq!(site.way, Some(Way::Agent));
    assert!(site.how.contains(why), "{}", site.how);
}

#[test]
fn a_switch_does_not_make_right_what_would_change_training() {
    let own = script().with(|s| {
        s.switches = vec![switch(Knob::Accumulation, None, false)];
        s.roots[0].batch_norm = true;
    });
    assert!(own.why_not(Knob::Accumulation).contains("BatchNorm"));
}
