//! The picture of `autofit watch` on a terminal.

use std::collections::VecDeque;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Gauge, Paragraph, Sparkline};

use super::watch::{allocator, cores, load, of_cap, training};
use super::words;
use crate::watch::live::Reading;

/// Points of the chart that are kept; wider terminals than that are rare.
const CHART: usize = 400;
/// From these shares of its cap on, memory is shown in yellow and in red.
const WARNING: f64 = 0.85;
const ALARM: f64 = 0.95;

/// What is shown.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// The command, or the process.
    pub what: String,
    /// The latest reading.
    pub now: Reading,
    /// Memory over time, of the device with the most, or of the host where there is none.
    pub history: VecDeque<u64>,
    /// The command's latest lines; `None` where it writes to nobody's terminal but its own.
    pub output: Option<Vec<String>>,
    /// A word on the present state: the agent has not started yet, say.
    pub note: String,
    /// What the keys do.
    pub keys: String,
}

impl View {
    /// Takes the next reading.
    pub fn take(&mut self, reading: Reading) {
        let device = reading.devices.iter().filter_map(|d| d.bytes).max();
        self.history.push_back(device.or(reading.host.bytes).unwrap_or(0));
        while self.history.len() > CHART {
            self.history.pop_front();
        }
        self.now = reading;
    }
}

/// Draws it, whatever the size of the terminal.
pub fn draw(frame: &mut Frame, view: &View) {
    let r = &view.now;
    let allocators = r.training.as_ref().map_or(0, |t| t.allocators.len());
    let chart = if frame.area().height > 16 { 5 } else { 0 };
    let [head, bars, chart, words, output, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1 + r.devices.len() as u16),
        Constraint::Length(chart),
        Constraint::Length(1 + allocators as u16),
        Constraint::Fill(1),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    let strong = Style::new().add_modifier(Modifier::BOLD);
    let title = vec![
        Span::styled("autofit watch  ", strong),
        Span::raw(format!("{}  {}", view.what, words::duration(r.at))),
    ];
    frame.render_widget(Paragraph::new(Line::from(title)), head);
    draw_memory(frame, bars, r);
    draw_chart(frame, chart, view);
    draw_training(frame, words, view);
    draw_output(frame, output, view);
    frame.render_widget(
        Paragraph::new(view.keys.as_str()).style(Style::new().add_modifier(Modifier::DIM)),
        foot,
    );
}

/// One bar for the host and one for each device, with what cannot be drawn behind it.
fn draw_memory(frame: &mut Frame, area: Rect, r: &Reading) {
    let host = {
        let mut about = vec![words::count(u64::from(r.processes), "process", "processes")];
        about.extend(r.cores.map(cores));
        ("host".to_owned(), r.host.bytes, r.host.peak, r.host.cap, about.join(", "))
    };
    let devices = r.devices.iter().map(|d| {
        let about: Vec<String> = load(d).into_iter().chain([d.name.clone()]).collect();
        (d.title(), d.bytes, d.peak, d.cap, about.join(", "))
    });
    for (row, (title, bytes, peak, cap, about)) in std::iter::once(host).chain(devices).enumerate() {
        let line = Rect { y: area.y + row as u16, height: 1, ..area };
        if line.y >= area.bottom() {
            return;
        }
        let [name, bar, text] =
            Layout::horizontal([Constraint::Length(11), Constraint::Percentage(25), Constraint::Fill(1)])
                .spacing(1)
                .areas(line);
        let share = |n: Option<u64>| {
            if cap == 0 { 0.0 } else { (n.unwrap_or(0) as f64 / cap as f64).clamp(0.0, 1.0) }
        };
        frame.render_widget(Paragraph::new(title), name);
        let gauge = Gauge::default()
            .ratio(share(bytes))
            .gauge_style(Style::new().fg(color(share(peak))))
            .label(words::bytes(bytes));
        frame.render_widget(gauge, bar);
        let peak = peak.map_or_else(|| "not told".to_owned(), |p| format!("peak {}", of_cap(p, cap)));
        frame.render_widget(Paragraph::new(format!("{peak}   {about}")), text);
    }
}

fn color(share: f64) -> Color {
    match share {
        s if s >= ALARM => Color::Red,
        s if s >= WARNING => Color::Yellow,
        _ => Color::Green,
    }
}

fn draw_chart(frame: &mut Frame, area: Rect, view: &View) {
    if area.height < 2 {
        return;
    }
    let device = view.now.devices.iter().any(|d| d.bytes.is_some());
    let block =
        Block::new().borders(Borders::TOP).title(if device { " GPU memory " } else { " host memory " });
    let skip = view.history.len().saturating_sub(area.width as usize);
    let points: Vec<u64> = view.history.iter().skip(skip).copied().collect();
    let most = points.iter().max().copied().unwrap_or(0).max(1);
    frame.render_widget(Sparkline::default().data(&points).max(most).block(block), area);
}

fn draw_training(frame: &mut Frame, area: Rect, view: &View) {
    let lines: Vec<Line> = match &view.now.training {
        Some(t) => std::iter::once(training(t).join(", "))
            .chain(t.allocators.iter().map(allocator))
            .map(Line::from)
            .collect(),
        None => vec![Line::from(view.note.clone())],
    };
    frame.render_widget(Paragraph::new(lines), area);
}

fn draw_output(frame: &mut Frame, area: Rect, view: &View) {
    let Some(output) = &view.output else { return };
    let block = Block::new().borders(Borders::TOP).title(" output ");
    let rows = usize::from(area.height.saturating_sub(1));
    let lines: Vec<Line> =
        output.iter().skip(output.len().saturating_sub(rows)).map(|l| Line::from(l.as_str())).collect();
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::super::watch::tests::{on_a_gpu, on_the_processor};
    use super::*;

    fn drawn(view: &View, width: u16, height: u16) -> String {
        let Ok(mut terminal) = Terminal::new(TestBackend::new(width, height));
        let Ok(_) = terminal.draw(|frame| draw(frame, view));
        let buffer = terminal.backend().buffer();
        let rows = (0..height).map(|y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>());
        rows.map(|row| row.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
    }

    fn view(reading: Reading) -> View {
        let mut view = View {
            what: "python train.py".into(),
            output: Some((1..=30).map(|n| format!("epoch {n}")).collect()),
            keys: "Ctrl-C: interrupts the script   q: leaves this view, the script goes on".into(),
            ..View::default()
        };
        view.history = (0..60).map(|n| n << 28).collect();
        view.take(reading);
        view
    }

    #[test]
    fn on_a_gpu_and_on_the_processor() {
        let pictures = drawn(&view(on_a_gpu()), 100, 20) + "\n\n" + &drawn(&view(on_the_processor()), 80, 12);
        insta::assert_snapshot!(pictures, @r#"
        autofit watch  python train.py  1 min 02 s
        host        █       3.00 GiB          peak 4.00 GiB of 64.0 GiB   5 processes, 1.9 cores busy
        GPU 0       ████████19.0 GiB ████     peak 22.0 GiB of 23.0 GiB   87 % busy, NVIDIA L4
         GPU memory ────────────────────────────────────────────────────────────────────────────────────────
                                                                    █
                                                 ▁▁▂▂▂▃▃▄▄▅▅▅▆▆▇▇████
                              ▁▁▂▂▂▃▃▄▄▅▅▅▆▆▇▇███████████████████████
           ▁▁▂▂▂▃▃▄▄▅▅▅▆▆▇▇██████████████████████████████████████████
        step 143, 3.41 steps/s, 109 samples/s, loader wait 12 %
        reserved 18.0 GiB, of it allocated 12.0 GiB (33 % unused), 512 MiB in split blocks, 2 retries
         output ────────────────────────────────────────────────────────────────────────────────────────────
        epoch 23
        epoch 24
        epoch 25
        epoch 26
        epoch 27
        epoch 28
        epoch 29
        epoch 30
        Ctrl-C: interrupts the script   q: leaves this view, the script goes on

        autofit watch  python train.py  8.0 s
        host        ██    700 MiB        peak 710 MiB of 8.00 GiB   1 process, 2.0 cores
        in eval, step 20, 8.00 steps/s, loader wait 1 %
         output ────────────────────────────────────────────────────────────────────────
        epoch 24
        epoch 25
        epoch 26
        epoch 27
        epoch 28
        epoch 29
        epoch 30
        Ctrl-C: interrupts the script   q: leaves this view, the script goes on
        "#);
    }

    #[test]
    fn a_terminal_that_is_far_too_small_is_no_failure() {
        for (width, height) in [(1, 1), (5, 2), (20, 3), (200, 4)] {
            drawn(&view(on_a_gpu()), width, height);
        }
    }

    #[test]
    fn only_so_many_points_are_kept() {
        let mut view = view(on_the_processor());
        (0..2 * CHART).for_each(|_| view.take(on_the_processor()));
        assert_eq!(view.history.len(), CHART);
    }
}
