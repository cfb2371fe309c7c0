//! `executor:` and `slurm:`: where trials are launched, and what is asked of SLURM for each of them.

use serde::Deserialize;

use super::scalars::{FromWord, Positive, Seconds, Word, word};

/// Where trials are launched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Executor {
    /// On this machine.
    #[default]
    Local,
    /// As jobs of SLURM, or as steps of the allocation that autofit runs in.
    Slurm,
}

/// What SLURM is asked for with each job.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Slurm {
    /// `--partition`.
    pub partition: Option<String>,
    /// `--account`.
    pub account: Option<String>,
    /// `--gres`, such as `gpu:1`.
    pub gres: Option<String>,
    /// `--time`, seconds.
    pub time: Option<f64>,
    /// `--nodes`: on how many each trial runs; `None`: as the command says.
    pub nodes: Option<u32>,
    /// Any other options of `sbatch` and `srun`.
    pub args: Vec<String>,
    /// Jobs at a time, at most; `None`: one, or inside an allocation one a node.
    pub jobs: Option<u32>,
}

impl Slurm {
    /// As options of `sbatch` and `srun`, but for the number of nodes; of two that contradict each other they take the
    /// later one.
    pub fn words(&self) -> Vec<String> {
        let named = [("partition", &self.partition), ("account", &self.account), ("gres", &self.gres)];
        let mut words: Vec<String> =
            named.iter().filter_map(|(name, value)| Some(format!("--{name}={}", value.as_ref()?))).collect();
        words.extend(self.time.map(|seconds| {
            let seconds = seconds.ceil() as u64;
            format!("--time={}:{:02}", seconds / 60, seconds % 60)
        }));
        words.extend(split_nodes(&self.args).0);
        words
    }

    /// On how many nodes each trial is to run, if that is said.
    ///
    /// # Errors
    /// The words in place of a number: a range is none.
    pub fn nodes(&self) -> Result<Option<u32>, String> {
        match split_nodes(&self.args).1 {
            None => Ok(self.nodes),
            Some(word) => match word.parse() {
                Ok(nodes) if nodes > 0 => Ok(Some(nodes)),
                _ => Err(word),
            },
        }
    }
}

/// Options without `--nodes` and `-N`, and what the last of those says.
fn split_nodes(args: &[String]) -> (Vec<String>, Option<String>) {
    let (mut others, mut nodes) = (Vec::new(), None);
    let mut args = args.iter();
    while let Some(word) = args.next() {
        let value =
            word.strip_prefix("--nodes=").or_else(|| word.strip_prefix("-N").filter(|v| !v.is_empty()));
        if let Some(value) = value {
            nodes = Some(value.to_owned());
        } else if word == "--nodes" || word == "-N" {
            nodes = Some(args.next().cloned().unwrap_or_default());
        } else {
            others.push(word.clone());
        }
    }
    (others, nodes)
}

/// `local`, `slurm`.
#[derive(Default, Clone, Copy)]
pub(super) struct ExecutorWord(pub Executor);

impl FromWord for ExecutorWord {
    const LOOKS: &'static str = "local or slurm";

    fn from_word(word: &str) -> Result<Self, String> {
        match word {
            "local" => Ok(Self(Executor::Local)),
            "slurm" => Ok(Self(Executor::Slurm)),
            other => Err(format!("`{other}` is not one of local, slurm")),
        }
    }
}

impl<'de> Deserialize<'de> for ExecutorWord {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        word(deserializer)
    }
}

/// As it is written.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawSlurm {
    partition: Option<Word>,
    account: Option<Word>,
    gres: Option<Word>,
    time: Option<Seconds>,
    nodes: Option<Positive>,
    args: Vec<Word>,
    jobs: Option<Positive>,
}

impl From<RawSlurm> for Slurm {
    fn from(raw: RawSlurm) -> Self {
        let text = |word: Option<Word>| word.map(|w| w.0);
        let number = |n: Positive| u32::try_from(n.0).unwrap_or(u32::MAX);
        Self {
            partition: text(raw.partition),
            account: text(raw.account),
            gres: text(raw.gres),
            time: raw.time.map(|t| t.0),
            nodes: raw.nodes.map(number),
            args: raw.args.into_iter().map(|w| w.0).collect(),
            jobs: raw.jobs.map(number),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::load;
    use super::*;

    #[test]
    fn a_recipe_says_what_slurm_is_asked_for() {
        let text = "executor: slurm\nslurm:\n  partition: gpu\n  gres: gpu:1\n  time: 90s\n  args: [--exclusive]\n  jobs: 2\n";
        let recipe = load(text, Path::new("r.yaml")).unwrap();
        assert_eq!((recipe.executor, recipe.slurm.jobs), (Executor::Slurm, Some(2)));
        assert_eq!(recipe.slurm.words(), ["--partition=gpu", "--gres=gpu:1", "--time=1:30", "--exclusive"]);
        let plain = load("about: x\n", Path::new("r.yaml")).unwrap();
        assert_eq!((plain.executor, plain.slurm.words().len()), (Executor::Local, 0));
    }

    #[test]
    fn the_number_of_nodes_is_no_option_of_every_job() {
        let of = |args: &[&str]| {
            let args = args.iter().map(|a| (*a).to_owned()).collect();
            let slurm = Slurm { nodes: Some(3), args, ..Slurm::default() };
            (slurm.words().join(" "), slurm.nodes())
        };
        assert_eq!(of(&["--mem=1G"]), ("--mem=1G".to_owned(), Ok(Some(3))));
        assert_eq!(of(&["--nodes=2", "--mem=1G", "-N", "4"]), ("--mem=1G".to_owned(), Ok(Some(4))));
        assert_eq!(of(&["-N2", "--nodelist=n1"]), ("--nodelist=n1".to_owned(), Ok(Some(2))));
        assert_eq!(of(&["--nodes", "2-4"]).1, Err("2-4".to_owned()));
    }

    #[test]
    fn mistakes_are_named() {
        let said = |text: &str| load(text, Path::new("r.yaml")).unwrap_err().to_string();
        assert!(
            said("executor: slrum\n").contains("r.yaml:1:11: executor: `slrum` is not one of local, slurm")
        );
        assert!(said("slurm: {partiton: gpu}\n").contains("did you mean `partition`?"));
    }
}
