//! The text of `autofit profile`.

use super::style::{Style, hang, one_line};
use super::{blocks, words};
use crate::model::Configuration;
use crate::model::plan::Device;
use crate::model::profile::{AtPeak, Operator, Profile};
use crate::model::size::Bytes;

/// Operators that are shown; the trace has all of them.
const SHOWN: usize = 8;
/// Blocks that are shown; the document has more.
const BLOCKS: usize = 10;
/// Columns of an operator's name.
const NAME: usize = 52;

/// What was profiled, and where the rest of it is.
pub struct ProfileText<'a> {
    /// The configuration.
    pub settings: &'a Configuration,
    /// What the agent told.
    pub profile: &'a Profile,
    /// Files that were written, as the user would name them, and what they are for.
    pub files: Vec<(String, &'static str)>,
}

/// The text.
pub fn render(text: &ProfileText, style: Style) -> String {
    let p = text.profile;
    let settings =
        if text.settings.is_baseline() { "baseline".to_owned() } else { text.settings.to_string() };
    let mut out = format!(
        "{settings}: step {}, {} under the profiler (slower than without)\n\n",
        p.step,
        seconds(p.seconds)
    );
    let of = match p.device {
        Device::Cpu => "host memory in tensors",
        Device::Cuda => "GPU memory in tensors",
    };
    match &p.memory {
        Some(memory) => {
            out += &at_peak(of, memory, style);
            out += &format!("\n{}\n", style.strong("the largest of it, by the line that made it"));
            out += &blocks::table(&memory.blocks, BLOCKS, style);
            out += &memory.pieces.as_ref().map_or_else(String::new, |p| blocks::pieces(p, style));
        }
        None => out += &format!("{}: not told\n", style.strong(of)),
    }
    out += &format!("\n{}\n", style.strong("the process on the host"));
    let row = |what: &str, n: u64| format!("  {what:<24} {:>9}\n", Bytes(n).to_string());
    out += &row("anonymous and shared", p.host.anonymous_and_shared);
    out += &row("  of it no tensors", p.host.rest);
    out += &row("mapped files", p.host.mapped_files);
    out += &row("highest resident set", p.host.rss_peak);
    out += &operators("operators by their own time", &p.by_time, seconds, style);
    out +=
        &operators("operators by the memory they took", &p.by_memory, |n| Bytes(n as u64).to_string(), style);
    for note in &p.notes {
        out += &hang("note: ", &one_line(note), style.width);
    }
    out.push('\n');
    for (file, what) in &text.files {
        out += &hang(&format!("{file}: "), what, style.width);
    }
    out
}

/// Most first; the sum stands below, and the allocator's own figure beside it.
fn at_peak(of: &str, memory: &AtPeak, style: Style) -> String {
    let mut out = format!("{}, at its peak\n", style.strong(of));
    out += &blocks::categories(&memory.categories, memory.peak);
    out += &format!("  {:<24} {:>9}\n", "together", Bytes(memory.peak).to_string());
    let counted = Bytes(memory.counted).to_string();
    let known = memory.peak - memory.categories.get("other").copied().unwrap_or(0).min(memory.peak);
    out +=
        &format!("  {:<24} {counted:>9}  {}\n", "by the allocator's count", explained(known, memory.counted));
    out + &format!("  {:<24} {:>9}\n", "when the step began", Bytes(memory.at_start).to_string())
}

/// `98.7 % of it explained`.
fn explained(known: u64, counted: u64) -> String {
    if counted == 0 {
        return String::new();
    }
    format!("{} % of it explained", words::number(known as f64 / counted as f64 * 100.0))
}

fn operators(title: &str, rows: &[Operator], value: impl Fn(f64) -> String, style: Style) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let mut out = format!("\n{}\n", style.strong(title));
    for row in rows.iter().take(SHOWN) {
        let name: String = one_line(&row.operator).chars().take(NAME).collect();
        out += &format!(
            "  {name:<NAME$} {:>5}x {:>9} {:>3.0} %\n",
            row.calls,
            value(row.value),
            row.share * 100.0
        );
    }
    out
}

/// `2.20 s`, `97.1 ms`.
fn seconds(s: f64) -> String {
    if s < 1.0 { format!("{} ms", words::number(s * 1e3)) } else { format!("{} s", words::number(s)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Knob;
    use crate::model::blocks::BlockRow;
    use crate::model::profile::HostParts;

    #[test]
    fn a_profile_on_the_processor() {
        const MIB: u64 = 1 << 20;
        let sizes = [
            ("parameters", 3),
            ("buffers", 0),
            ("optimizer_state", 6),
            ("gradients", 0),
            ("activations", 515),
            ("temporaries", 20),
            ("other", 4),
        ];
        let block = |category: &str, mib, count, place: Option<&str>, what: &str, shape: &[u64]| BlockRow {
            category: category.into(),
            bytes: mib * MIB,
            count,
            place: place.map(str::to_owned),
            what: Some(what.into()),
            shape: Some(shape.to_vec()),
            dtype: Some("float32".into()),
        };
        let blocks = vec![
            block("activations", 256, 8, Some("models/gpt.py:65"), "aten::gelu", &[128, 128, 512]),
            block(
                "activations",
                64,
                8,
                Some("transformers/models/bert/modeling_bert.py:1024"),
                "aten::add",
                &[128, 128, 128],
            ),
            block("temporaries", 16, 1, None, "MulBackward0", &[128, 128, 256]),
            block("optimizer_state", 6, 2, None, "exp_avg", &[1024, 768]),
        ];
        let operator =
            |name: &str, calls, value, share| Operator { operator: name.into(), calls, value, share };
        let profile = Profile {
            step: 9,
            seconds: 2.2,
            device: Device::Cpu,
            by_time: vec![operator("aten::mm", 67, 0.677, 0.32), operator("aten::addmm", 32, 0.0481, 0.02)],
            by_memory: vec![operator("aten::addmm", 32, 301_989_888.0, 0.24)],
            memory: Some(AtPeak {
                seconds: 2.9,
                peak: 548 * MIB,
                counted: 550 * MIB,
                at_start: 12 * MIB,
                categories: sizes.iter().map(|(n, size)| ((*n).to_owned(), size * MIB)).collect(),
                blocks,
                pieces: None,
            }),
            host: HostParts {
                anonymous_and_shared: 1325 * MIB,
                rest: 1316 * MIB,
                mapped_files: 286 * MIB,
                rss_peak: 1665 * MIB,
            },
            notes: vec![],
        };
        let settings = Configuration::baseline().with(Knob::Amp, "bf16");
        let files =
            vec![("autofit-profile/trace.json.gz".to_owned(), "for ui.perfetto.dev or chrome://tracing")];
        let text = render(&ProfileText { settings: &settings, profile: &profile, files }, Style::PLAIN);
        insta::assert_snapshot!(text, @r#"
        amp=bf16: step 9, 2.20 s under the profiler (slower than without)

        host memory in tensors, at its peak
          activations                515 MiB   94 %
          temporaries               20.0 MiB    4 %
          optimizer state           6.00 MiB    1 %
          other                     4.00 MiB    1 %
          parameters                3.00 MiB    1 %
          together                   548 MiB
          by the allocator's count   550 MiB  98.9 % of it explained
          when the step began       12.0 MiB

        the largest of it, by the line that made it
           256 MiB  8x  activations      models/gpt.py:65              float32 128x128x512  aten::gelu
          64.0 MiB  8x  activations      …/bert/modeling_bert.py:1024  float32 128x128x128  aten::add
          16.0 MiB      temporaries      -                             float32 128x128x256  MulBackward0
          6.00 MiB  2x  optimizer state  -                             float32 1024x768     exp_avg

        the process on the host
          anonymous and shared      1.29 GiB
            of it no tensors        1.29 GiB
          mapped files               286 MiB
          highest resident set      1.63 GiB

        operators by their own time
          aten::mm                                                67x    677 ms  32 %
          aten::addmm                                             32x   48.1 ms   2 %

        operators by the memory they took
          aten::addmm                                             32x   288 MiB  24 %

        autofit-profile/trace.json.gz: for ui.perfetto.dev or chrome://tracing
        "#);
    }
}
