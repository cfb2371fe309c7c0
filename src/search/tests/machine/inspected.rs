//! What a launch that inspects the script finds.

use super::{MIB, Machine, command};
use crate::model::event::{Hello, Record};
use crate::model::inspection::{
    BlocksInfo, Detected, ExchangeInfo, LoaderInfo, OptionsInfo, RootInfo, ScriptOption, UpdateInfo,
};
use crate::model::plan::Device;
use crate::model::{Event, VERSION};

impl Machine {
    /// The records of an inspecting launch.
    pub fn events(&self) -> Vec<Event> {
        let root = RootInfo {
            class: "Net".into(),
            parameters: 1_000_000,
            trainable: 1_000_000,
            serves: self.serves,
            bytes: self.model * MIB,
            blocks: self.blocks.then(|| BlocksInfo {
                path: "h".into(),
                class: "Block".into(),
                count: 6,
                share: 0.9,
            }),
            batch_norm: self.batch_norm,
            dropout: self.dropout,
            returns: if self.returns_loss { "scalar" } else { "tensor" }.into(),
            returns_loss: self.returns_loss,
            batch: Some(self.batch),
            ..RootInfo::default()
        };
        let loader = LoaderInfo {
            training: true,
            site: "train.py:41".into(),
            batch_size: Some(self.batch),
            batches: Some(1000),
            num_workers: self.own_workers,
            sampler: "RandomSampler".into(),
            ..LoaderInfo::default()
        };
        let detected = Detected {
            accumulation: 1,
            optimizers: vec!["AdamW".into()],
            roots: 1,
            samples_per_step: self.batch,
            samples_from: "loader".into(),
            threads: self.cores,
            update: Some(self.update()),
            tf32: !self.kernels,
            deterministic: !self.kernels,
            compile_lacks: (!self.kernels).then(|| "there is no compiler".to_owned()),
            exchange: self.copies.then(ExchangeInfo::default),
            distributed: self.copies.then(|| "DistributedDataParallel".to_owned()),
            ..Detected::default()
        };
        let option = ScriptOption {
            flags: vec!["--batch-size".into()],
            dest: "batch_size".into(),
            kind: "int".into(),
            value: Some(self.batch.to_string()),
            write: vec!["--batch-size={value}".into()],
            ..ScriptOption::default()
        };
        let mut records = vec![
            Record::Framework { name: "torch".into(), version: "2.11.0".into(), cuda_devices: 0 },
            Record::Options(OptionsInfo {
                parser: "argparse".into(),
                options: vec![option],
                ..OptionsInfo::default()
            }),
            Record::Root(root),
            Record::Detected(detected),
        ];
        if self.processes > 1 {
            records.push(Record::Hello(self.hello()));
        }
        if self.loader {
            records.push(Record::Loader(loader));
        }
        records.into_iter().map(|record| Event { v: VERSION, at: 0.0, pid: 1, record }).collect()
    }

    fn hello(&self) -> Hello {
        Hello {
            nonce: String::new(),
            ppid: 1,
            rank: 0,
            world_size: self.processes,
            argv: command(),
            python: "3.11.7".into(),
            executable: "python".into(),
            training: true,
        }
    }

    fn update(&self) -> UpdateInfo {
        let cuda = self.device == Device::Cuda;
        let words = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect();
        UpdateInfo {
            now: if !self.kernels {
                "fused"
            } else if cuda {
                "foreach"
            } else {
                "loop"
            }
            .to_owned(),
            values: if self.kernels { words(&["loop", "foreach", "fused"]) } else { words(&["fused"]) },
            why_not: None,
            share: (!cuda).then_some(if self.kernels { 0.15 } else { 0.01 }),
        }
    }
}
