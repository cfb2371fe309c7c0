//! What autofit can do here: how trials are kept from the user's files, and how their memory is capped.

use crate::doctor::facts::{Facts, Launches};
use crate::doctor::{Area, Finding};
use crate::model::size::Bytes;

/// What trials write goes there: checkpoints of a confirm trial among it.
const SCRATCH_WANTED: u64 = 5 << 30;

pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    let launches = &facts.launches;
    let mut found = vec![isolation(facts), contained(launches), cap(launches)];
    found.extend(scratch(launches));
    found
}

fn isolation(facts: &Facts) -> Finding {
    let launches = &facts.launches;
    let name = "autofit.isolation";
    let what = match launches.isolation.as_str() {
        "overlay" => {
            return Finding::ok(
                Area::Autofit,
                name,
                "trials see your files through overlay views (--isolate=overlay)",
            );
        }
        "landlock" => "trials run in a copy, and may not write elsewhere (--isolate=landlock)",
        "copy" => "trials run in a copy of the working directory only (--isolate=copy)",
        _ => {
            return Finding::bad(
                Area::Autofit,
                name,
                "trials cannot be isolated",
                "no way to do it works here",
            );
        }
    };
    let refused = launches.refused.as_deref().unwrap_or("no reason is known");
    let why = format!("overlay views are refused ({refused}). Left open: {}", launches.open.join("; "));
    let found = Finding::warn(Area::Autofit, name, what, why);
    match facts.system.container.as_deref() {
        Some("kubernetes") => found.write("securityContext: { capabilities: { add: [SYS_ADMIN] } }"),
        Some(_) => {
            found.run("docker run --cap-add=SYS_ADMIN --security-opt seccomp=unconfined --security-opt apparmor=unconfined ...")
        }
        None => found
            .run("sudo sysctl kernel.unprivileged_userns_clone=1")
            .run("sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0   # Ubuntu 24.04 and newer"),
    }
}

fn contained(launches: &Launches) -> Finding {
    let name = "autofit.processes";
    if launches.contained {
        return Finding::ok(Area::Autofit, name, "no process outlives its trial (PID namespace)");
    }
    let why = "PID namespaces are refused here: a daemon that a script starts may escape";
    Finding::warn(Area::Autofit, name, "processes of a trial are looked for and ended", why)
}

fn cap(launches: &Launches) -> Finding {
    let name = "autofit.cap";
    match (&launches.cap, &launches.no_cap) {
        (Some(mechanism), _) => Finding::ok(
            Area::Autofit,
            name,
            format!("--memory-cap holds for the whole process tree ({mechanism})"),
        ),
        (None, why) => Finding::warn(
            Area::Autofit,
            name,
            "--memory-cap holds for each process alone (RLIMIT_DATA)",
            why.as_deref().unwrap_or("no memory cgroup can be made"),
        )
        .run(
            "systemd-run --user --scope -p Delegate=yes autofit -- python train.py   # a cgroup of your own",
        ),
    }
}

fn scratch(launches: &Launches) -> Option<Finding> {
    let (place, free) = launches.scratch.as_ref()?;
    let what = format!("trials write to {place}: {} free", Bytes(*free));
    if *free >= SCRATCH_WANTED {
        return Some(Finding::ok(Area::Autofit, "autofit.scratch", what));
    }
    let why = "what a trial writes is kept there until it ends, checkpoints too";
    Some(
        Finding::warn(Area::Autofit, "autofit.scratch", what, why)
            .run("export AUTOFIT_SCRATCH=/a/larger/disk"),
    )
}
