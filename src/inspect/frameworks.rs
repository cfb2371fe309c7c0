//! Knobs that a framework has a switch of its own for.

use super::sites::{refused, site};
use crate::model::inspection::{KnobSite, SwitchInfo};
use crate::model::plan::Way;

/// The site of a knob whose framework has a switch for it: that goes before the agent's own patch, and after the
/// script's option, which sets the same switch.
pub(super) fn through(found: KnobSite, switch: &SwitchInfo) -> KnobSite {
    if let (Some(why), false) = (&switch.why_not, switch.agent) {
        return refused(found.knob, why.clone());
    }
    if found.way != Some(Way::Agent) {
        return found;
    }
    if let Some(why) = &switch.why_not {
        return KnobSite { how: format!("{} (not {}: {why})", found.how, switch.how), ..found };
    }
    KnobSite {
        values: switch.values.clone(),
        current: switch.current.clone(),
        ..site(found.knob, Way::Framework, switch.how.clone())
    }
}
