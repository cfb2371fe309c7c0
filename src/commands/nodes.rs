//! On how many nodes of SLURM each trial runs.

use crate::exit::{self, Exit};
use crate::model::torchrun::{Machines, Torchrun};
use crate::recipe::Slurm;

/// As the options say, else as the command does; inside an allocation of so many nodes torchrun has all of them.
///
/// # Errors
/// [`Exit`] with status 2 where these contradict each other, or the command would do the same on each node.
pub fn of_trial(slurm: &Slurm, command: &[String], allocation: Option<u32>) -> Result<u32, Exit> {
    let refuse = |why: String| Err(Exit::new(exit::USAGE, why));
    let asked = match slurm.nodes() {
        Ok(asked) => asked,
        Err(word) => {
            return refuse(format!(
                "--nodes={word} is not a number: trials on more nodes or fewer cannot be compared"
            ));
        }
    };
    let Some(torchrun) = Torchrun::find(command) else {
        return match asked {
            Some(nodes) if nodes > 1 => refuse(format!(
                "only torchrun starts a command on several nodes, and {nodes} are asked for: autofit --executor slurm \
                 --slurm --nodes={nodes} -- torchrun --nproc-per-node K train.py"
            )),
            _ => Ok(1),
        };
    };
    match (torchrun.machines(), asked) {
        (Machines::Unreadable, None) => {
            refuse("how many nodes --nnodes means cannot be read; say it with --slurm --nodes=N".to_owned())
        }
        (Machines::Between(least, most), Some(nodes)) if nodes > 1 && !(least..=most).contains(&nodes) => {
            refuse(format!(
                "the command runs on {} nodes, and --nodes={nodes} asks for others",
                range(least, most)
            ))
        }
        (_, Some(nodes)) => Ok(nodes),
        (Machines::Between(_, most), None) => Ok(most.max(1)),
        (Machines::Unsaid, None) => Ok(allocation.unwrap_or(1).max(1)),
    }
}

fn range(least: u32, most: u32) -> String {
    if least == most { least.to_string() } else { format!("{least} to {most}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(option: &str, command: &str, allocation: Option<u32>) -> Result<u32, String> {
        let args = option.split_whitespace().map(str::to_owned).collect();
        let command: Vec<String> = command.split(' ').map(str::to_owned).collect();
        let slurm = Slurm { args, ..Slurm::default() };
        of_trial(&slurm, &command, allocation).map_err(|e| e.to_string())
    }

    #[test]
    fn who_says_it_most_plainly_is_heard() {
        assert_eq!(nodes("", "python train.py", Some(4)), Ok(1));
        assert_eq!(nodes("", "torchrun train.py", None), Ok(1));
        assert_eq!(nodes("", "torchrun train.py", Some(4)), Ok(4));
        assert_eq!(nodes("", "torchrun --standalone train.py", Some(4)), Ok(1));
        assert_eq!(nodes("", "torchrun --nnodes 2 train.py", Some(4)), Ok(2));
        assert_eq!(nodes("--nodes=1", "torchrun --nnodes 2 train.py", None), Ok(1));
        assert_eq!(nodes("--nodes=3", "srun torchrun train.py", Some(4)), Ok(3));
        assert_eq!(nodes("--nodes=3", "torchrun --nnodes 1:4 train.py", None), Ok(3));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let said = |option, command| nodes(option, command, None).unwrap_err();
        assert!(said("--nodes=2", "python train.py").contains("only torchrun"));
        assert!(said("--nodes=2-4", "torchrun train.py").contains("--nodes=2-4 is not a number"));
        assert!(said("--nodes=2", "torchrun --nnodes 4 train.py").contains("runs on 4 nodes"));
        assert!(said("", "torchrun --nnodes $N train.py").contains("--slurm --nodes=N"));
    }
}
