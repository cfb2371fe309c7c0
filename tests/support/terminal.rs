//! A program on a terminal of its own, and what the terminal was before and after.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::pty::{Winsize, openpty};
use nix::sys::termios::{Termios, tcgetattr};

/// A program that runs on a terminal.
pub struct OnTerminal {
    child: Child,
    keyboard: File,
    screen: Arc<Mutex<Vec<u8>>>,
    before: Termios,
}

/// How it ended.
pub struct Left {
    /// Exit status; 128 + n for a signal.
    pub code: i32,
    /// Everything that it wrote.
    pub screen: String,
    /// The terminal is set as it was.
    pub restored: bool,
}

impl Left {
    /// The last of what it wrote, for a message.
    pub fn tail(&self) -> String {
        tail(&self.screen)
    }
}

/// Pictures are long, and unreadable here.
fn tail(screen: &str) -> String {
    let text: Vec<char> = screen.chars().filter(|c| *c != '\x1b').collect();
    text[text.len().saturating_sub(800)..].iter().collect()
}

impl OnTerminal {
    /// Starts it in a session of its own, with the terminal as its controlling one.
    pub fn start(mut command: Command) -> Self {
        let size = Winsize { ws_row: 24, ws_col: 90, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(Some(&size), None).unwrap();
        let before = tcgetattr(&pty.master).unwrap();
        let end = || Stdio::from(pty.slave.try_clone().unwrap());
        command.stdin(end()).stdout(end()).stderr(end()).env("TERM", "xterm");
        // SAFETY: between fork and exec there are these two system calls.
        unsafe {
            command.pre_exec(|| {
                if libc::setsid() < 0 || libc::ioctl(0, libc::TIOCSCTTY, 0) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let child = command.spawn().unwrap();
        drop(command);
        let keyboard = File::from(pty.master);
        let screen = Arc::new(Mutex::new(Vec::new()));
        let (mut from, to) = (keyboard.try_clone().unwrap(), Arc::clone(&screen));
        // Our end of the program's side stays open until its end, so that nothing that it wrote is lost.
        let held = pty.slave;
        std::thread::spawn(move || {
            let _held = held;
            let mut chunk = [0; 8192];
            while let Ok(n) = from.read(&mut chunk) {
                to.lock().unwrap().extend(&chunk[..n]);
            }
        });
        Self { child, keyboard, screen, before }
    }

    /// What it wrote so far.
    pub fn screen(&self) -> String {
        String::from_utf8_lossy(&self.screen.lock().unwrap()).into_owned()
    }

    /// Waits until it has written this.
    pub fn wait_for(&mut self, text: &str) {
        let began = Instant::now();
        while !self.screen().contains(text) {
            assert!(
                began.elapsed() < Duration::from_secs(120),
                "`{text}` never came: {}",
                tail(&self.screen())
            );
            assert!(
                self.child.try_wait().unwrap().is_none(),
                "ended before `{text}`: {}",
                tail(&self.screen())
            );
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    /// Types.
    pub fn types(&mut self, keys: &[u8]) {
        self.keyboard.write_all(keys).unwrap();
    }

    /// Waits for its end.
    pub fn leave(mut self) -> Left {
        let began = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if began.elapsed() > Duration::from_secs(120) {
                self.child.kill().unwrap();
                panic!("did not end: {}", tail(&self.screen()));
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        std::thread::sleep(Duration::from_millis(100));
        let restored = tcgetattr(&self.keyboard).unwrap() == self.before;
        let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
        Left { code, screen: self.screen(), restored }
    }
}
