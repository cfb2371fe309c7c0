//! What this machine allows, found by trying it.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::OnceLock;

use super::helper::protocol::{Report, Spec, Stage, send_spec};
use super::launch::spawn_helper;
use crate::sandbox::{View, What, landlock, scratch::Scratch};

/// What trials can be given here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Abilities {
    /// Namespaces of mounts and processes, and whether they need a namespace of users; or the system's refusal.
    pub namespaces: Result<bool, String>,
    /// Overlay views over the file system, or the system's refusal.
    pub overlay: Result<(), String>,
    /// Version of Landlock's interface, if there is one.
    pub landlock: Option<i32>,
}

/// Tries it once for the life of this process: a helper is started twice and leaves at once.
pub fn abilities() -> &'static Abilities {
    static FOUND: OnceLock<Abilities> = OnceLock::new();
    FOUND.get_or_init(|| {
        let namespaces = probe(None).map_err(|(_, error)| error);
        let overlay = match &namespaces {
            Ok(_) => probe_overlay(),
            Err(error) => Err(error.clone()),
        };
        Abilities { namespaces, overlay, landlock: landlock::version() }
    })
}

fn probe_overlay() -> Result<(), String> {
    let scratch = Scratch::create().map_err(|e| format!("no room for scratch: {e}"))?;
    let layer = scratch.path().join("layer");
    let below = scratch.path().join("below");
    let made = std::fs::create_dir(&below)
        .and_then(|()| std::fs::create_dir_all(layer.join("upper")))
        .and_then(|()| std::fs::create_dir(layer.join("work")));
    made.map_err(|e| e.to_string())?;
    let mut view = View::default();
    view.put(&below, What::Overlay { layer });
    probe(Some(view)).map(|_| ()).map_err(|(_, error)| error)
}

/// Whether a helper comes as far as starting a command, and whether it mapped users.
fn probe(view: Option<View>) -> Result<bool, (Option<Stage>, String)> {
    let ended = |e: String| (None, e);
    let (mut child, socket) = spawn_helper(Stdio::null).map_err(|e| ended(e.to_string()))?;
    let spec = Spec {
        argv: Vec::new(),
        env: Vec::new(),
        cwd: PathBuf::from("/").into_os_string(),
        namespaces: true,
        view,
        writable_only: None,
        data_limit: None,
    };
    let mut answer = String::new();
    let read = send_spec(&socket, &spec).and_then(|()| BufReader::new(&socket).read_line(&mut answer));
    let _ = child.wait();
    read.map_err(|e| ended(e.to_string()))?;
    match serde_json::from_str(&answer) {
        Ok(Report::Ready { user_namespace }) => Ok(user_namespace),
        Ok(Report::Refused { stage, error }) => Err((Some(stage), error)),
        _ => Err(ended("the helper gave no answer".to_owned())),
    }
}
