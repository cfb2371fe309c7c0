//! Facts -> findings.  Pure: the same facts give the same findings, on any machine.

mod gpus;
mod host;
mod launches;
mod nvidia;
mod tools;
mod torch;

#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod tests;

use super::{Facts, Finding};

/// Every rule.
pub(super) fn all(facts: &Facts) -> Vec<Finding> {
    let mut found = nvidia::findings(facts);
    found.extend(gpus::findings(facts));
    found.extend(torch::findings(facts));
    found.extend(host::findings(facts));
    found.extend(tools::findings(facts));
    found.extend(launches::findings(facts));
    found
}
