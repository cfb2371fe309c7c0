//! Programs that are needed beside Python.

use crate::doctor::facts::Facts;
use crate::doctor::{Area, Finding};

pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    let mut missing: Vec<(&str, String, &str)> = Vec::new();
    let tools = &facts.tools;
    let with_gpu = !facts.nvidia.gpus.is_empty();
    if tools.cc.is_none() && with_gpu {
        missing.push(("gcc", "a C compiler (Triton builds its launchers with one)".into(), "compile"));
    }
    if tools.cxx.is_none() && !with_gpu {
        missing.push((
            "g++",
            "a C++ compiler (kernels for the processor are built with one)".into(),
            "compile",
        ));
    }
    if let Some(answer) = &facts.python.answer {
        if !answer.headers && with_gpu {
            missing.push((
                "python3-dev",
                "Python's headers (Triton's launchers need Python.h)".into(),
                "compile",
            ));
        }
        if !answer.venv {
            missing.push((
                "python3-venv",
                "venv and ensurepip (`autofit demo` makes an environment)".into(),
                "",
            ));
        }
    }
    if facts.host.nodes > 1 && !tools.numactl {
        missing.push(("numactl", "numactl (to keep a process on one NUMA node)".into(), ""));
    }
    if missing.is_empty() {
        let compiler = tools.cxx.as_deref().or(tools.cc.as_deref()).unwrap_or("none needed");
        return vec![Finding::ok(Area::Tools, "tools", format!("compiler: {compiler}; nothing is missing"))];
    }
    let named: Vec<&str> = missing.iter().map(|(_, what, _)| what.as_str()).collect();
    let knobs = missing.iter().any(|(_, _, knob)| !knob.is_empty());
    let why = if knobs {
        "without a compiler the knob `compile` cannot be turned"
    } else {
        "what needs them fails with a message of its own"
    };
    let found = Finding::warn(Area::Tools, "tools", format!("missing: {}", named.join("; ")), why);
    let packages: Vec<&str> = missing.iter().map(|(package, ..)| *package).collect();
    vec![if facts.system.apt {
        found.run(format!("sudo apt-get install {}", packages.join(" ")))
    } else {
        found.run(format!("{}   # or what your distribution calls them", packages.join(" ")))
    }]
}
