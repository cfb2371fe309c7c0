//! The terminal as a screen, and as it was again whatever happens.

use std::io::{self, IsTerminal as _, Stderr, stderr};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode, size,
};

use crate::report::watch_view::{View, draw};

/// The terminal is ours to draw on.
static OURS: AtomicBool = AtomicBool::new(false);

/// What was typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// Ctrl-C.
    Interrupt,
    /// `q`.
    Quit,
}

/// A second screen of the terminal on standard error; dropping it brings the first one back.
pub struct Screen {
    terminal: Terminal<CrosstermBackend<Stderr>>,
}

impl Screen {
    /// Whether there is a terminal to draw on and to type at.
    pub fn possible() -> bool {
        io::stdin().is_terminal()
            && stderr().is_terminal()
            && std::env::var_os("TERM").is_some_and(|t| t != "dumb")
    }

    /// Lines and columns of the terminal.
    pub fn size() -> (u16, u16) {
        size().map_or((24, 80), |(columns, lines)| (lines, columns))
    }

    /// Takes the terminal.
    ///
    /// # Errors
    /// When it cannot be set up; it is then as it was.
    pub fn open() -> io::Result<Self> {
        restore_on_panic();
        enable_raw_mode()?;
        OURS.store(true, Ordering::SeqCst);
        let opened = execute!(stderr(), EnterAlternateScreen)
            .and_then(|()| Terminal::new(CrosstermBackend::new(stderr())))
            .map(|terminal| Self { terminal });
        if opened.is_err() {
            restore();
        }
        opened
    }

    /// Draws.
    pub fn show(&mut self, view: &View) {
        // A terminal that has gone away is no reason to stop watching.
        let _ = self.terminal.draw(|frame| draw(frame, view));
    }

    /// The next key that means something, if one was typed.
    pub fn key() -> Option<Key> {
        while event::poll(Duration::ZERO).unwrap_or(false) {
            let Ok(Event::Key(key)) = event::read() else { continue };
            if key.kind != KeyEventKind::Press {
                continue;
            }
            match key.code {
                KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => {
                    return Some(Key::Interrupt);
                }
                KeyCode::Char('q' | 'Q') => return Some(Key::Quit),
                _ => {}
            }
        }
        None
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
    }
}

/// Gives the terminal back; a second time does nothing.
fn restore() {
    if OURS.swap(false, Ordering::SeqCst) {
        let _ = execute!(stderr(), LeaveAlternateScreen, Show);
        let _ = disable_raw_mode();
    }
}

/// What a panic says must be readable, and so must what is typed afterwards.
fn restore_on_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            restore();
            before(info);
        }));
    });
}
