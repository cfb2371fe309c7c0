//! A job script for SLURM that trains with what was tuned.  Pure.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::path::Path;

use super::config::RunDocument;
use crate::model::Knob;
use crate::model::plan::Device;
use crate::model::torchrun::Torchrun;

/// Memory that a job is given on top of the confirmed peak, bytes: libraries (those of PyTorch alone are some 400 MiB in
/// each process, torchrun's own included), which a scheduler counts with the rest.
const ASIDE: u64 = 1 << 30;

/// What a script is written from.
#[derive(Debug, Clone, Copy)]
pub struct JobScript<'a> {
    /// What was tuned.
    pub document: &'a RunDocument,
    /// This program.
    pub program: &'a Path,
    /// The file that tuning wrote.
    pub env: &'a Path,
    /// Where the command runs.
    pub cwd: &'a Path,
    /// The command.
    pub command: &'a [String],
    /// Nodes.
    pub nodes: u32,
    /// The user's own options of `sbatch`.
    pub options: &'a [String],
}

/// A job script cannot be written.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "only torchrun starts a command on several nodes: autofit emit --form sbatch --nodes {0} -- torchrun ..."
)]
pub struct NotTorchrun(u32);

impl JobScript<'_> {
    /// The script.
    ///
    /// # Errors
    /// Several nodes, and a command that would do the same on each of them.
    pub fn render(&self) -> Result<String, NotTorchrun> {
        let torchrun = Torchrun::find(self.command);
        if self.nodes > 1 && torchrun.is_none() {
            return Err(NotTorchrun(self.nodes));
        }
        let mut text = format!("#!/bin/bash\n# Written by autofit {}", env!("CARGO_PKG_VERSION"));
        let settings = &self.document.plan.settings;
        let _ = writeln!(text, ": trains with what was tuned ({settings}).");
        for option in self.directives() {
            let _ = writeln!(text, "#SBATCH {}", directive(&option));
        }
        text.push_str("set -euo pipefail\n");
        let run = shell_words::join([
            &*self.program.to_string_lossy(),
            "run",
            "--env",
            &self.env.to_string_lossy(),
            "--",
        ]);
        match torchrun {
            None => {
                let _ = writeln!(text, "srun {run} {}", shell_words::join(self.command));
            }
            Some(torchrun) => {
                text.push_str(
                    "# All nodes meet at the first one, where this script runs, and not on a port that others use.\n\
                     meet=\"$(hostname):$((20000 + SLURM_JOB_ID % 20000))\"\n",
                );
                let _ = writeln!(
                    text,
                    "srun --cpu-bind=none {run} {} --nnodes=\"$SLURM_NNODES\" --rdzv-backend=c10d --rdzv-id=\"$SLURM_JOB_ID\" \
                     --rdzv-endpoint=\"$meet\" {}",
                    shell_words::join(torchrun.launcher()),
                    shell_words::join(torchrun.without_rendezvous())
                );
            }
        }
        Ok(text)
    }

    fn directives(&self) -> Vec<String> {
        // How long a trial may take says nothing about training.
        let trials = self.document.slurm.iter().filter(|w| !w.starts_with("--time=")).cloned();
        let mut all: Vec<String> = trials.collect();
        if self.document.slurm.is_empty() {
            all.extend(self.needed());
        }
        all.extend([
            format!("--nodes={}", self.nodes),
            "--ntasks-per-node=1".to_owned(),
            format!("--chdir={}", self.cwd.display()),
        ]);
        all.extend(self.options.iter().cloned());
        all
    }

    /// What a job needs, where trials were no jobs.
    fn needed(&self) -> Option<String> {
        let document = self.document;
        match document.plan.device {
            Device::Cuda => {
                let processes = document.plan.settings.int(Knob::Processes).unwrap_or(1);
                Some(format!("--gpus-per-node={processes}"))
            }
            Device::Cpu => {
                let peak = document.confirmed.peak_bytes?;
                Some(format!("--mem={}M", (peak + peak / 4 + ASIDE).div_ceil(1 << 20)))
            }
        }
    }
}

/// An option as a line of `#SBATCH` has it: quoted where it must be.
fn directive(option: &str) -> Cow<'_, str> {
    let plain = option.chars().all(|c| c.is_ascii_alphanumeric() || "-_=:,./+@%[]".contains(c));
    if plain { Cow::Borrowed(option) } else { shell_words::quote(option) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::emit::config::tests::document;

    fn script(line: &str, nodes: u32, change: impl FnOnce(&mut RunDocument)) -> Result<String, NotTorchrun> {
        let mut document = document();
        change(&mut document);
        let command: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let options = ["--time=24:00:00".to_owned()];
        JobScript {
            document: &document,
            program: Path::new("/opt/autofit"),
            env: Path::new("/home/me/my work/autofit.env"),
            cwd: Path::new("/home/me/my work"),
            command: &command,
            nodes,
            options: &options,
        }
        .render()
    }

    #[test]
    fn a_plain_command_is_given_what_it_was_measured_to_need() {
        insta::assert_snapshot!(script("python train.py", 1, |_| ()).unwrap(), @r#"
        #!/bin/bash
        # Written by autofit 0.1.0: trains with what was tuned (amp=bf16, num_workers=2).
        #SBATCH --mem=2574M
        #SBATCH --nodes=1
        #SBATCH --ntasks-per-node=1
        #SBATCH '--chdir=/home/me/my work'
        #SBATCH --time=24:00:00
        set -euo pipefail
        srun /opt/autofit run --env '/home/me/my work/autofit.env' -- python train.py
        "#);
        assert_eq!(script("python train.py", 2, |_| ()), Err(NotTorchrun(2)));
    }

    #[test]
    fn torchrun_meets_at_the_first_node_of_the_trials_own_allocation() {
        let line = "torchrun --standalone --nproc-per-node 2 --rdzv_endpoint=x:1 train.py --nnodes 3";
        let text =
            script(line, 2, |d| d.slurm = ["--partition=gpu", "--time=5:00"].map(str::to_owned).to_vec());
        insta::assert_snapshot!(text.unwrap(), @r#"
        #!/bin/bash
        # Written by autofit 0.1.0: trains with what was tuned (amp=bf16, num_workers=2).
        #SBATCH --partition=gpu
        #SBATCH --nodes=2
        #SBATCH --ntasks-per-node=1
        #SBATCH '--chdir=/home/me/my work'
        #SBATCH --time=24:00:00
        set -euo pipefail
        # All nodes meet at the first one, where this script runs, and not on a port that others use.
        meet="$(hostname):$((20000 + SLURM_JOB_ID % 20000))"
        srun --cpu-bind=none /opt/autofit run --env '/home/me/my work/autofit.env' -- torchrun --nnodes="$SLURM_NNODES" --rdzv-backend=c10d --rdzv-id="$SLURM_JOB_ID" --rdzv-endpoint="$meet" --nproc-per-node 2 train.py --nnodes 3
        "#);
    }

    #[test]
    fn on_gpus_each_process_has_its_own() {
        let text = script("python train.py", 1, |d| {
            d.plan.device = Device::Cuda;
            d.plan.settings = d.plan.settings.clone().with(Knob::Processes, 4);
        });
        assert!(text.unwrap().contains("#SBATCH --gpus-per-node=4\n"));
    }
}
