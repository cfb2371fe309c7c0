//! The text of `autofit inspect`.

use super::style::{Style, hang, one_line, wrap};
use super::words;
use crate::model::Inspection;
use crate::model::inspection::{BlocksInfo, Detected, KnobSite, LoaderInfo, RootInfo};
use crate::model::plan::{Device, Way};
use crate::model::size::Bytes;

const GAP: &str = "  ";

/// What was found, and the table of knobs.
pub fn render(i: &Inspection, style: Style) -> String {
    let mut out = String::new();
    let mut say = |head: &str, text: &str| out.push_str(&hang(head, &one_line(text), style.width));
    let device = match i.device {
        Device::Cpu => "cpu",
        Device::Cuda => "cuda",
    };
    let frameworks: Vec<String> = i.frameworks.iter().map(|(n, v)| format!("{n} {v}")).collect();
    say("device: ", device);
    if !frameworks.is_empty() {
        say("frameworks: ", &frameworks.join(", "));
    }
    for r in &i.roots {
        say("model: ", &model(r));
    }
    if i.roots.is_empty() {
        say("model: ", "no call of a module with trainable parameters was seen");
    }
    for l in &i.loaders {
        say(if l.training { "training loader: " } else { "loader: " }, &loader(l));
    }
    if i.loaders.is_empty() {
        say("loader: ", "no DataLoader was seen");
    }
    if let Some(o) = &i.options {
        let text = match o.options.len() as u64 {
            0 => format!("not discovered: {} has no list of them; a recipe can name them", o.parser),
            n => format!("{} by {}", words::count(n, "option", "options"), o.parser),
        };
        say("options: ", &text);
    }
    if let Some(d) = &i.detected {
        for line in detected(d) {
            say("the script itself: ", &line);
        }
    }
    out.push('\n');
    out + &knobs(&i.knobs, style)
}

fn model(r: &RootInfo) -> String {
    let mut parts = vec![format!("{}, {} parameters, {}", r.class, people(r.parameters), Bytes(r.bytes))];
    if r.trainable != r.parameters {
        parts.push(format!("{} of them train", people(r.trainable)));
    }
    match &r.blocks {
        Some(BlocksInfo { path, class, count, share }) => {
            parts
                .push(format!("{count} blocks {class} at {path} ({:.0} % of the parameters)", share * 100.0));
        }
        None => parts.push("no repeated blocks".to_owned()),
    }
    let has = [(r.batch_norm, "BatchNorm"), (r.dropout, "dropout"), (r.recurrent, "recurrent layers")];
    let has: Vec<&str> = has.into_iter().filter(|(yes, _)| *yes).map(|(_, name)| name).collect();
    if !has.is_empty() {
        parts.push(format!("has {}", has.join(", ")));
    }
    if r.returns_loss {
        parts.push("returns its loss".to_owned());
    }
    parts.join("; ")
}

/// `124M`, `6.10k`, `812`.
fn people(n: u64) -> String {
    let x = n as f64;
    for (unit, size) in [("G", 1e9), ("M", 1e6), ("k", 1e3)] {
        if x >= size {
            return format!("{}{unit}", words::number(x / size));
        }
    }
    n.to_string()
}

fn loader(l: &LoaderInfo) -> String {
    let mut parts = vec![match l.batch_size {
        Some(b) => format!("batch size {b}"),
        None => "a batch sampler of the script's own".to_owned(),
    }];
    if let Some(n) = l.batches {
        parts.push(words::count(n, "batch an epoch", "batches an epoch"));
    }
    parts.push(words::count(u64::from(l.num_workers), "worker", "workers"));
    if l.pin_memory {
        parts.push("pinned memory".to_owned());
    }
    if !l.site.is_empty() {
        parts.push(format!("built at {}", l.site));
    }
    parts.join(", ")
}

fn detected(d: &Detected) -> Vec<String> {
    let mut lines = Vec::new();
    let mut add = |yes: bool, text: String| {
        if yes {
            lines.push(text);
        }
    };
    add(d.samples_per_step > 0, {
        let from = if d.samples_from.is_empty() { "unknown" } else { &d.samples_from };
        format!("{} a step (counted from {from})", words::count(d.samples_per_step, "sample", "samples"))
    });
    add(!d.optimizers.is_empty(), format!("optimizer {}", d.optimizers.join(", ")));
    add(d.amp.is_some(), format!("uses {} already", d.amp.as_deref().unwrap_or_default()));
    add(d.compile, "uses torch.compile already".to_owned());
    add(d.checkpointing, "uses checkpointing already".to_owned());
    add(d.accumulation > 1, format!("accumulates gradients over {} calls of backward", d.accumulation));
    add(d.distributed.is_some(), format!("uses {} already", d.distributed.as_deref().unwrap_or_default()));
    add(
        d.alloc_conf.is_some(),
        format!("PYTORCH_CUDA_ALLOC_CONF={}", d.alloc_conf.as_deref().unwrap_or_default()),
    );
    add(d.roots > 1, format!("trains {} models in turn", d.roots));
    add(d.double_backward, "differentiates twice".to_owned());
    add(d.threads > 0, words::count(u64::from(d.threads), "CPU thread", "CPU threads"));
    lines
}

/// The way in one word.
pub fn way(w: Way) -> &'static str {
    match w {
        Way::Recipe => "recipe",
        Way::Option => "option",
        Way::Framework => "framework",
        Way::Agent => "agent",
        Way::Environment => "environment",
    }
}

/// One row a knob: knob, class, way, how it is turned or why it is not, current value.
fn knobs(sites: &[KnobSite], style: Style) -> String {
    let heads = ["knob", "class", "way", "now", "how, or why not"].map(str::to_owned);
    let cells = |s: &KnobSite| {
        let how = match s.way {
            Some(_) => s.how.clone(),
            None => format!("not turned: {}", s.why_not.as_deref().unwrap_or("no way was found")),
        };
        [
            s.knob.name().to_owned(),
            s.class.name().to_owned(),
            s.way.map_or(words::NONE, way).to_owned(),
            s.current.clone().unwrap_or_else(|| words::NONE.to_owned()),
            one_line(&how),
        ]
    };
    let rows: Vec<[String; 5]> = sites.iter().map(cells).collect();
    let width = |i: usize| rows.iter().chain([&heads]).map(|r| r[i].chars().count()).max().unwrap_or(0);
    let widths = [width(0), width(1), width(2), width(3).min(24)];
    let indent = widths.iter().sum::<usize>() + GAP.len() * widths.len();
    let room = style.width.saturating_sub(indent).max(20);
    let mut out = String::new();
    for (n, row) in [&heads].into_iter().chain(&rows).enumerate() {
        let now = wrap(&row[3], widths[3]);
        let how = wrap(&row[4], room);
        for line in 0..now.len().max(how.len()) {
            let first = |i: usize| if line == 0 { row[i].as_str() } else { "" };
            let text = format!(
                "{:w0$}{GAP}{:w1$}{GAP}{:w2$}{GAP}{:w3$}{GAP}{}",
                first(0),
                first(1),
                first(2),
                now.get(line).map_or("", String::as_str),
                how.get(line).map_or("", String::as_str),
                w0 = widths[0],
                w1 = widths[1],
                w2 = widths[2],
                w3 = widths[3],
            );
            let text = text.trim_end();
            out += &if n == 0 { style.strong(text) } else { text.to_owned() };
            out.push('\n');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Knob, NumericsClass, VERSION};

    #[test]
    fn a_knob_that_cannot_be_turned_is_named_with_the_reason() {
        let site = |knob: Knob, way: Option<Way>, how: &str, why_not: Option<&str>, current: Option<&str>| {
            serde_json::from_value::<KnobSite>(serde_json::json!({
                "knob": knob, "class": knob.class(), "way": way, "how": how, "why_not": why_not, "current": current,
            }))
            .unwrap()
        };
        let i = Inspection {
            version: VERSION,
            device: Device::Cpu,
            frameworks: [("torch".to_owned(), "2.11.0".to_owned())].into(),
            options: None,
            switches: Vec::new(),
            loaders: vec![LoaderInfo {
                training: true,
                batch_size: Some(64),
                batches: Some(1),
                site: "train.py:41".into(),
                ..Default::default()
            }],
            roots: vec![RootInfo {
                class: "GPT".into(),
                parameters: 124_000_000,
                trainable: 124_000_000,
                bytes: 496 << 20,
                blocks: Some(BlocksInfo {
                    path: "transformer.h".into(),
                    class: "Block".into(),
                    count: 12,
                    share: 0.69,
                }),
                dropout: true,
                ..Default::default()
            }],
            detected: Some(Detected {
                samples_per_step: 64,
                samples_from: "loader".into(),
                optimizers: vec!["AdamW".into()],
                accumulation: 1,
                threads: 2,
                ..Default::default()
            }),
            launched: Default::default(),
            knobs: vec![
                site(Knob::BatchSize, Some(Way::Option), "--batch-size", None, Some("64")),
                site(Knob::Amp, Some(Way::Agent), "autocast around the call of GPT", None, Some("off")),
                site(
                    Knob::PinMemory,
                    None,
                    "",
                    Some("pinned memory is for CUDA; training is on the CPU"),
                    None,
                ),
            ],
        };
        assert_eq!(i.knobs[0].class, NumericsClass::Dynamics);
        insta::assert_snapshot!(render(&i, Style { width: 80, color: false }), @r#"
        device: cpu
        frameworks: torch 2.11.0
        model: GPT, 124M parameters, 496 MiB; 12 blocks Block at transformer.h (69 % of
               the parameters); has dropout
        training loader: batch size 64, 1 batch an epoch, 0 workers, built at
                         train.py:41
        the script itself: 64 samples a step (counted from loader)
        the script itself: optimizer AdamW
        the script itself: 2 CPU threads

        knob        class      way     now  how, or why not
        batch_size  dynamics   option  64   --batch-size
        amp         precision  agent   off  autocast around the call of GPT
        pin_memory  exact      -       -    not turned: pinned memory is for CUDA;
                                            training is on the CPU
        "#);
    }
}
