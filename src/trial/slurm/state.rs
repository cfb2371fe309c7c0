//! What `squeue` and a job's own output say about it.  Pure.

use std::collections::BTreeMap;

/// Where a job stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobState {
    /// In the queue; SLURM's reason.
    Waiting(String),
    /// On these nodes, or about to end there.
    Running(String),
    /// It is over.
    Ended(End),
}

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Its program ended with status 0.
    Completed,
    /// Its program ended otherwise.
    Failed,
    /// For its memory.
    OutOfMemory,
    /// At its time limit.
    TimedOut,
    /// Another job took its place.
    Preempted,
    /// Its node was lost.
    NodeLost,
    /// By `scancel`.
    Cancelled,
    /// SLURM does not know it any more.
    Forgotten,
}

/// What `squeue` is to print of a job.
pub const FORMAT: &str = "%i|%T|%r|%N";

/// Reads what it printed, by job.
pub fn read(text: &str) -> BTreeMap<String, JobState> {
    text.lines().filter_map(read_line).collect()
}

fn read_line(line: &str) -> Option<(String, JobState)> {
    let mut fields = line.trim().split('|');
    let id = fields.next()?.to_owned();
    let (state, reason, nodes) = (fields.next()?, fields.next()?, fields.next()?);
    let state = match state {
        "PENDING" | "REQUEUED" | "REQUEUE_HOLD" | "REQUEUE_FED" | "SPECIAL_EXIT" | "RESV_DEL_HOLD" => {
            JobState::Waiting(reason.to_owned())
        }
        "COMPLETED" => JobState::Ended(End::Completed),
        "OUT_OF_MEMORY" => JobState::Ended(End::OutOfMemory),
        "TIMEOUT" | "DEADLINE" => JobState::Ended(End::TimedOut),
        "PREEMPTED" => JobState::Ended(End::Preempted),
        "NODE_FAIL" | "BOOT_FAIL" => JobState::Ended(End::NodeLost),
        "CANCELLED" | "REVOKED" => JobState::Ended(End::Cancelled),
        "FAILED" => JobState::Ended(End::Failed),
        _ => JobState::Running(nodes.to_owned()),
    };
    Some((id, state))
}

/// The daemons' words in a job's output, which tell more than its state: a job that is killed for its memory without a
/// cgroup counts as failed, a step has no state at all.
pub fn refine(end: End, output: &str) -> End {
    if matches!(end, End::Completed | End::OutOfMemory) {
        return end;
    }
    let says = |words: &[&str]| {
        daemons(output).any(|line| {
            let line = line.to_lowercase();
            words.iter().any(|word| line.contains(word))
        })
    };
    if memory_line(output).is_some() {
        End::OutOfMemory
    } else if says(&["due to time limit"]) {
        End::TimedOut
    } else if says(&["due to preemption"]) {
        End::Preempted
    } else if says(&["due to node failure", "node failure on"]) {
        End::NodeLost
    } else if end == End::Failed && says(&["cancelled at", "job step aborted"]) {
        End::Cancelled
    } else {
        end
    }
}

/// The line with which a daemon says that memory was the reason.
pub fn memory_line(output: &str) -> Option<&str> {
    const WORDS: [&str; 5] = ["memory limit", "oom_kill", "oom-kill", "out of memory", "oom killed"];
    daemons(output).find(|line| {
        let line = line.to_lowercase();
        WORDS.iter().any(|word| line.contains(word))
    })
}

/// Lines of SLURM's own programs (`slurmstepd: `, or `slurmstepd-n1: ` where a host is several nodes); those of the
/// script are not heard.
fn daemons(output: &str) -> impl Iterator<Item = &str> {
    output.lines().filter(|l| l.starts_with("slurmstepd") || l.starts_with("srun: "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_read_job_by_job() {
        let text = "7|PENDING|Resources|\n8|RUNNING|None|n1\n9|COMPLETING|None|n2\n10|OUT_OF_MEMORY|OutOfMemory|n1\n\
                    11|NODE_FAIL|NodeDown|n2\n12|CANCELLED|None|\n";
        let states = read(text);
        assert_eq!(states["7"], JobState::Waiting("Resources".into()));
        assert_eq!(states["8"], JobState::Running("n1".into()));
        assert_eq!(states["9"], JobState::Running("n2".into()));
        assert_eq!(states["10"], JobState::Ended(End::OutOfMemory));
        assert_eq!(states["11"], JobState::Ended(End::NodeLost));
        assert_eq!(states["12"], JobState::Ended(End::Cancelled));
        assert!(read("slurm_load_jobs error: Invalid job id specified\n").is_empty());
    }

    #[test]
    fn the_daemons_words_tell_more_than_the_state() {
        // Seen with SLURM 22.05; the state is then FAILED.
        let without_cgroup = "slurmstepd-n1: error: StepId=5.batch exceeded memory limit (640663552 > 524288000), being killed\n\
                              slurmstepd-n1: error: Exceeded job memory limit\n\
                              slurmstepd-n1: error: *** JOB 5 ON n1 CANCELLED AT 2026-01-01T00:00:00 ***\n";
        assert_eq!(refine(End::Failed, without_cgroup), End::OutOfMemory);
        let with_one = "slurmstepd: error: Detected 1 oom_kill event in StepId=5.0. Some of the step tasks have been OOM Killed.\n";
        assert_eq!(refine(End::Failed, with_one), End::OutOfMemory);
        let late =
            "slurmstepd: error: *** STEP 5.0 ON n1 CANCELLED AT 2026-01-01T00:00:00 DUE TO TIME LIMIT ***\n";
        assert_eq!(refine(End::Failed, late), End::TimedOut);
        let ended = "slurmstepd: error: *** STEP 5.0 ON n1 CANCELLED AT 2026-01-01T00:00:00 ***\n";
        assert_eq!(refine(End::Failed, ended), End::Cancelled);
        // A script may print what it likes.
        assert_eq!(refine(End::Failed, "    | CUDA out of memory\n"), End::Failed);
        assert_eq!(refine(End::Completed, without_cgroup), End::Completed);
    }
}
