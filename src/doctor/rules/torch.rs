//! Python and PyTorch, and whether they go with the driver.

use crate::doctor::facts::{Answer, Facts, Gpu, Python, Torch, Version};
use crate::doctor::{Area, Finding};

/// Where a build for another CUDA version is chosen.
const BUILDS: &str = "https://pytorch.org/get-started/locally";

pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    let python = &facts.python;
    let Some(answer) = &python.answer else { return vec![no_python(facts)] };
    let mut found = vec![Finding::ok(
        Area::Python,
        "python",
        format!("Python {} ({})", answer.version, answer.executable),
    )];
    match &answer.torch {
        Some(torch) => found.extend(of_torch(facts, torch)),
        None => found.push(no_torch(python, answer)),
    }
    found
}

fn no_python(facts: &Facts) -> Finding {
    let why = facts.python.failed.as_deref().unwrap_or("it gave no answer");
    let what = format!("`{}` could not be asked", facts.python.command);
    let found = Finding::bad(Area::Python, "python", what, why);
    let found = if facts.system.apt { found.run("sudo apt-get install python3 python3-venv") } else { found };
    found.run("autofit doctor -- /path/to/python   # where training has an interpreter of its own")
}

fn no_torch(python: &Python, answer: &Answer) -> Finding {
    let why = answer.torch_error.as_deref().unwrap_or("it could not be imported");
    let missing = why.starts_with("ModuleNotFoundError") && why.contains("'torch'");
    let what = if missing { "PyTorch is not installed" } else { "PyTorch cannot be imported" };
    let found = Finding::bad(Area::Python, "torch", format!("{what} in `{}`", python.command), why);
    let found = if missing {
        found.run(format!("{} -m pip install torch", python.command))
    } else {
        found.run(format!("{} -m pip install --force-reinstall torch", python.command))
    };
    found.run("autofit doctor -- /path/to/python   # where training has an interpreter of its own")
}

fn of_torch(facts: &Facts, torch: &Torch) -> Vec<Finding> {
    let mut found = vec![build(facts, torch)];
    found.extend(driver(facts, torch));
    found.extend(facts.nvidia.gpus.iter().filter_map(|gpu| arch(torch, gpu)));
    found.extend(unavailable(facts, torch, &found));
    if let Some(why) = &torch.numpy {
        let what = "PyTorch and NumPy do not go together";
        found.push(
            Finding::warn(
                Area::Python,
                "torch.numpy",
                what,
                format!("data sets that use NumPy fail ({why})"),
            )
            .run(format!("{} -m pip install 'numpy<2'   # or a newer torch", facts.python.command)),
        );
    }
    if torch.cuda.is_some() && !torch.triton && !facts.nvidia.gpus.is_empty() {
        let why = "torch.compile needs it on a GPU, so the knob `compile` cannot be turned";
        let what = "Triton is not installed";
        let install = format!("{} -m pip install triton", facts.python.command);
        found.push(Finding::warn(Area::Python, "torch.triton", what, why).run(install));
    }
    found
}

fn build(facts: &Facts, torch: &Torch) -> Finding {
    let version = &torch.version;
    match (&torch.cuda, &torch.hip) {
        (Some(cuda), _) => {
            let mut text = format!("PyTorch {version}, built for CUDA {cuda}");
            for (name, v) in [("cuDNN", &torch.cudnn), ("NCCL", &torch.nccl)] {
                if let Some(v) = v {
                    text.push_str(&format!(", {name} {v}"));
                }
            }
            Finding::ok(Area::Python, "torch", text)
        }
        (None, Some(hip)) => Finding::warn(
            Area::Python,
            "torch",
            format!("PyTorch {version}, built for ROCm {hip}"),
            "autofit knows NVIDIA GPUs only: it tunes this build for the processor",
        ),
        (None, None) if facts.nvidia.gpus.is_empty() => {
            Finding::ok(Area::Python, "torch", format!("PyTorch {version}, built without CUDA"))
        }
        (None, None) => Finding::bad(
            Area::Python,
            "torch",
            format!("PyTorch {version} is built without CUDA, and there is a GPU"),
            "every script trains on the processor, whatever it asks for",
        )
        .run(format!("{} -m pip install --force-reinstall torch", facts.python.command))
        .see(BUILDS),
    }
}

/// CUDA 11 and newer: a driver serves every minor version of its major one; an older major needs another driver or
/// NVIDIA's compatibility libraries.
fn driver(facts: &Facts, torch: &Torch) -> Option<Finding> {
    let built = torch.cuda.as_deref().and_then(Version::parse)?;
    let serves = facts.nvidia.cuda.filter(|_| !facts.nvidia.gpus.is_empty())?;
    let name = "torch.driver";
    let what = |end: &str| format!("PyTorch is built for CUDA {built}, the driver serves CUDA {serves}{end}");
    if built.0 > serves.0 {
        return Some(if torch.available {
            let why = "NVIDIA's compatibility libraries bridge the two; a newer driver needs no bridge";
            Finding::warn(Area::Python, name, what(" and older"), why)
        } else {
            Finding::bad(
                Area::Python,
                name,
                what(" and older"),
                "the driver is too old for this build: CUDA does not start",
            )
            .see(format!("{BUILDS} for a build for CUDA {} or older", serves.0))
            .see("https://www.nvidia.com/drivers for a newer driver, where you may install one")
        });
    }
    if built > serves {
        let text = what(": the same major version, which is enough");
        return Some(Finding::ok(Area::Python, name, text));
    }
    Some(Finding::ok(Area::Python, name, format!("the driver serves CUDA {serves}, PyTorch needs {built}")))
}

/// Machine code runs on the same major capability from its own minor one on; PTX is compiled for any newer GPU.
fn arch(torch: &Torch, gpu: &Gpu) -> Option<Finding> {
    let capability = gpu.health.capability?;
    if torch.arch.is_empty() || torch.arch.iter().any(|name| runs_on(name, capability)) {
        return None;
    }
    let (major, minor) = capability;
    let oldest = torch.arch.iter().filter_map(|a| capability_of(a)).min().unwrap_or_default();
    let too_old = capability < oldest;
    let what = format!(
        "GPU {} has compute capability {major}.{minor}, this PyTorch has no code for it",
        gpu.facts.index
    );
    let why = format!(
        "it is built for {}: kernels fail with \"no kernel image is available\"",
        torch.arch.join(", ")
    );
    let found = Finding::bad(Area::Python, "torch.arch", what, why);
    Some(if too_old {
        found.see("https://pytorch.org/get-started/previous-versions for a build that still serves this GPU")
    } else {
        found.run("pip install --upgrade torch").see(BUILDS)
    })
}

fn runs_on(name: &str, (major, minor): (u32, u32)) -> bool {
    let Some((a, b)) = capability_of(name) else { return false };
    if name.starts_with("compute_") {
        return (a, b) <= (major, minor);
    }
    // `sm_90a`: for the very capability only.
    let exact = name.ends_with(|c: char| c.is_ascii_alphabetic());
    a == major && if exact { b == minor } else { b <= minor }
}

/// `(9, 0)` of `sm_90`, `sm_90a` and `compute_90`: the last digit is the minor one.
fn capability_of(name: &str) -> Option<(u32, u32)> {
    let digits: String = name.split_once('_')?.1.chars().take_while(char::is_ascii_digit).collect();
    let number: u32 = digits.parse().ok()?;
    Some((number / 10, number % 10))
}

/// CUDA does not start, and nothing above says why.
fn unavailable(facts: &Facts, torch: &Torch, found: &[Finding]) -> Option<Finding> {
    let hidden = facts.nvidia.visible.as_deref().is_some_and(|v| v.trim().is_empty() || v.trim() == "-1");
    let explained = found.iter().any(|f| f.verdict == crate::doctor::Level::Bad);
    if torch.cuda.is_none() || torch.available || facts.nvidia.gpus.is_empty() || hidden || explained {
        return None;
    }
    let why = torch.unavailable.as_deref().unwrap_or("torch.cuda.is_available() says no and gives no reason");
    Some(
        Finding::bad(Area::Python, "torch.cuda", "PyTorch sees no GPU, and the driver lists one", why)
            .run(format!("{} -c 'import torch; torch.cuda.init()'", facts.python.command))
            .run("sudo modprobe nvidia_uvm   # CUDA needs this module too"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_runs_where_cuda_says_that_it_runs() {
        for (name, capability, runs) in [
            ("sm_80", (8, 0), true),
            ("sm_80", (8, 9), true),
            ("sm_86", (8, 0), false),
            ("sm_80", (9, 0), false),
            ("compute_80", (9, 0), true),
            ("compute_90", (8, 0), false),
            ("sm_90a", (9, 0), true),
            ("sm_100a", (10, 3), false),
            ("sm_120", (12, 0), true),
            ("gfx90a", (9, 0), false),
        ] {
            assert_eq!(runs_on(name, capability), runs, "{name} on {capability:?}");
        }
    }
}
