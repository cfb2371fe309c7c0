//! The private Python environment, as the person at the terminal sees it being made.

use std::io::Write;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::Verbosity;
use crate::exit::{self, Exit};
use crate::pyenv::{self, Notice, Python};
use crate::report::Mode;

/// Without a terminal, how often a line says that work goes on.
const SIGN_OF_LIFE: Duration = Duration::from_secs(10);
/// On a terminal, how long the announcement stands before the download starts, so that Ctrl-C can prevent it.
const SECOND_THOUGHTS: Duration = Duration::from_secs(5);

/// The environment, made if it is not there.  With `yes` nothing is waited for before the download.
///
/// # Errors
/// [`Exit`] with status 6 and what is missing.
pub fn ensure(yes: bool) -> Result<Python, Exit> {
    let mode = Mode::detect(Verbosity::Normal);
    let mut show = Show { live: mode.live, yes, bar: None, last: Instant::now() };
    let result = pyenv::ensure(&mut |notice| show.notice(notice));
    show.clear();
    result.map_err(|e| Exit::new(exit::PLACE, e.to_string()))
}

struct Show {
    live: bool,
    yes: bool,
    bar: Option<ProgressBar>,
    last: Instant,
}

impl Show {
    fn notice(&mut self, notice: Notice) {
        match notice {
            Notice::Say(text) => {
                self.clear();
                say(&text);
            }
            Notice::Announce(text) => {
                self.clear();
                say(&text);
                if self.live && !self.yes {
                    say(&format!("It starts in {} s; Ctrl-C stops it.", SECOND_THOUGHTS.as_secs()));
                    for left in (1..=SECOND_THOUGHTS.as_secs()).rev() {
                        self.spin(format!("{left} s"));
                        std::thread::sleep(Duration::from_secs(1));
                    }
                    self.clear();
                }
            }
            Notice::Working { what, elapsed, last } => {
                let text = match last.as_str() {
                    "" => format!("{what}, {} s", elapsed.as_secs()),
                    line => format!("{what}, {} s: {line}", elapsed.as_secs()),
                };
                if self.live {
                    self.spin(text);
                } else if self.last.elapsed() > SIGN_OF_LIFE || elapsed.is_zero() {
                    self.last = Instant::now();
                    say(&text);
                }
            }
        }
    }

    fn spin(&mut self, text: String) {
        let bar = self.bar.get_or_insert_with(|| {
            let style = ProgressStyle::with_template("{spinner} {wide_msg}");
            ProgressBar::new_spinner().with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()))
        });
        bar.set_message(text);
        bar.tick();
    }

    fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

fn say(text: &str) {
    // A closed standard error is no reason to stop.
    let _ = writeln!(std::io::stderr(), "{text}");
}
