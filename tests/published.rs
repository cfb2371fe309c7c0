//! What README.md says of other tools is what the file of results says, and the edits for them still apply.
#![allow(clippy::unwrap_used)]

use std::process::Command;

#[test]
fn the_comparison_with_other_tools_is_the_measured_one() {
    let done = Command::new("python3")
        .args(["benches/peers", "--check"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env_remove("OUT")
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}
