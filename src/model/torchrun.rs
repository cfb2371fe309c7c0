//! `torchrun` in a command, and the same command on several machines.
//!
//! Where the machines meet is not the command's to say: torchrun's default port is everybody's, and which machine is
//! the first one is known when they are given.

/// Where torchrun takes a rendezvous from, and what says that it starts on several machines.
const RENDEZVOUS: [&str; 10] = [
    "--nnodes",
    "--rdzv-backend",
    "--rdzv-endpoint",
    "--rdzv-id",
    "--rdzv-conf",
    "--node-rank",
    "--master-addr",
    "--master-port",
    "--local-addr",
    STANDALONE,
];
const STANDALONE: &str = "--standalone";

/// Options that take no value.
const FLAGS: [&str; 5] = [STANDALONE, "--no-python", "--run-path", "--module", "--virtual-local-rank"];
/// The others that have one letter (`-m` takes no value).
const SHORT: [&str; 2] = ["-r", "-t"];

/// A command that torchrun carries out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Torchrun<'a> {
    /// `torchrun`, or `python -m torch.distributed.run`.
    launcher: &'a [String],
    /// torchrun's options, the script, and what is the script's.
    rest: &'a [String],
}

/// How many machines a command says it runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machines {
    /// Nothing about it.
    Unsaid,
    /// From so many to so many.
    Between(u32, u32),
    /// Something that is no number.
    Unreadable,
}

impl<'a> Torchrun<'a> {
    /// The command as it was typed, `srun` before it included.
    pub fn find(command: &'a [String]) -> Option<Self> {
        let command = without_srun(command);
        let named = |word: &String, name: &str| word.rsplit('/').next().is_some_and(|w| w.starts_with(name));
        let first = command.first()?;
        let head = if first.rsplit('/').next() == Some("torchrun") {
            1
        } else {
            let module = command.get(1..3).is_some_and(|w| w == ["-m", "torch.distributed.run"]);
            (named(first, "python") && module).then_some(3)?
        };
        let (launcher, rest) = command.split_at(head);
        Some(Self { launcher, rest })
    }

    /// The words up to torchrun's own options.
    pub fn launcher(&self) -> &'a [String] {
        self.launcher
    }

    /// The words after them, without what says where processes meet.
    pub fn without_rendezvous(&self) -> Vec<&'a str> {
        self.split().1
    }

    /// The whole command with other words in place of those.
    pub fn meeting(&self, words: impl IntoIterator<Item = String>) -> Vec<String> {
        let launcher = self.launcher.iter().cloned();
        launcher.chain(words).chain(self.without_rendezvous().into_iter().map(str::to_owned)).collect()
    }

    /// What `--nnodes` says.
    pub fn machines(&self) -> Machines {
        let options = self.split().0;
        if options.iter().any(|(name, _)| name == STANDALONE) {
            return Machines::Between(1, 1);
        }
        let Some((_, value)) = options.iter().rev().find(|(name, _)| name == "--nnodes") else {
            return Machines::Unsaid;
        };
        let (least, most) = value.split_once(':').unwrap_or((value, value));
        match (least.parse(), most.parse()) {
            (Ok(least), Ok(most)) => Machines::Between(least, most),
            _ => Machines::Unreadable,
        }
    }

    /// The options that are about a rendezvous, with their values, and all other words in their order.
    fn split(&self) -> (Vec<(String, &'a str)>, Vec<&'a str>) {
        let (mut taken, mut kept) = (Vec::new(), Vec::new());
        let mut words = self.rest.iter().map(String::as_str);
        while let Some(word) = words.next() {
            kept.push(word);
            if !word.starts_with('-') {
                break; // The script: what follows is its own.
            }
            let (name, value) = word.split_once('=').map_or((word, None), |(n, v)| (n, Some(v)));
            let name = name.replace('_', "-");
            let takes = value.is_none()
                && (SHORT.contains(&name.as_str())
                    || name.starts_with("--") && !FLAGS.contains(&name.as_str()));
            let value = if takes { words.next() } else { value };
            if RENDEZVOUS.contains(&name.as_str()) {
                kept.pop();
                taken.push((name, value.unwrap_or_default()));
            } else if takes {
                kept.extend(value);
            }
        }
        kept.extend(words);
        (taken, kept)
    }
}

/// A command without `srun` and its options, where torchrun follows: on each machine one torchrun is started anyway.
pub fn without_srun(command: &[String]) -> &[String] {
    if command.first().and_then(|w| w.rsplit('/').next()) != Some("srun") {
        return command;
    }
    let rest = &command[1..];
    let at = (0..rest.len()).find(|at| {
        let module = rest.get(at + 1..at + 3).is_some_and(|w| w == ["-m", "torch.distributed.run"]);
        rest[*at].rsplit('/').next() == Some("torchrun") || module
    });
    at.map_or(command, |at| &rest[at..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    fn met(line: &str) -> Option<String> {
        let command = words(line);
        Some(Torchrun::find(&command)?.meeting(["--here".to_owned()]).join(" "))
    }

    #[test]
    fn the_rendezvous_is_replaced_and_the_script_keeps_its_own() {
        let line = "torchrun --standalone --nproc-per-node 2 --rdzv_endpoint=x:1 -r 3 --nnodes 2 train.py --nnodes 3";
        assert_eq!(met(line).unwrap(), "torchrun --here --nproc-per-node 2 -r 3 train.py --nnodes 3");
        let module = "/opt/python3 -m torch.distributed.run --nnodes=1:4 -m package.train --local-addr x";
        assert_eq!(
            met(module).unwrap(),
            "/opt/python3 -m torch.distributed.run --here -m package.train --local-addr x"
        );
        assert_eq!(met("python train.py"), None);
        assert_eq!(met("accelerate launch train.py"), None);
    }

    #[test]
    fn srun_before_torchrun_goes() {
        assert_eq!(met("srun --ntasks-per-node 1 -l torchrun train.py").unwrap(), "torchrun --here train.py");
        assert_eq!(without_srun(&words("srun python train.py")), words("srun python train.py"));
    }

    #[test]
    fn what_it_says_of_machines_is_read() {
        let of = |line: &str| Torchrun::find(&words(line)).unwrap().machines();
        assert_eq!(of("torchrun train.py --nnodes 9"), Machines::Unsaid);
        assert_eq!(of("torchrun --nnodes 2 --nnodes=3 train.py"), Machines::Between(3, 3));
        assert_eq!(of("torchrun --nnodes 1:4 train.py"), Machines::Between(1, 4));
        assert_eq!(of("torchrun --standalone train.py"), Machines::Between(1, 1));
        assert_eq!(of("torchrun --nnodes $N train.py"), Machines::Unreadable);
    }
}
