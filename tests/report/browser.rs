//! A real Chromium without a window, driven through its debugging pipe: no driver, no port, no download.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::{Value, json};

/// Where it may be, in the order in which it is looked for.
const NAMES: [&str; 5] =
    ["chromium", "chromium-headless-shell", "chromium-browser", "google-chrome", "google-chrome-stable"];

/// A page is drawn in a fraction of a second; a busy machine gets this long.
const PATIENCE: Duration = Duration::from_secs(60);

/// The browser with one page.
pub struct Browser {
    child: Child,
    to: File,
    from: BufReader<File>,
    session: Option<String>,
    next: u64,
    events: VecDeque<Value>,
    page: String,
    /// Requests to anything but the page itself; each was refused.
    pub requests: Vec<String>,
    /// Errors and warnings of the console, and exceptions that nobody caught.
    pub complaints: Vec<String>,
    _profile: tempfile::TempDir,
}

/// How the page is looked at.
#[derive(Debug, Clone, Copy)]
pub struct View {
    pub width: u32,
    pub height: u32,
    pub dark: bool,
    pub phone: bool,
}

impl Browser {
    /// Starts one.
    ///
    /// # Panics
    /// With what to install where there is none: these tests are never skipped in silence.
    pub fn start() -> Self {
        let program = find().unwrap_or_else(|| {
            panic!(
                "there is no Chromium here, which the tests of report.html need: install one (apt-get install chromium), \
                 or name it in AUTOFIT_TEST_CHROMIUM"
            )
        });
        let profile = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let (its_input, to) = std::io::pipe().unwrap();
        let (from, its_output) = std::io::pipe().unwrap();
        let ends = [OwnedFd::from(its_input), OwnedFd::from(its_output)];
        let mut command = Command::new(&program);
        command
            .args([
                "--headless",
                "--remote-debugging-pipe",
                "--no-sandbox",
                "--disable-gpu",
                "--no-first-run",
            ])
            .args(["--hide-scrollbars", "--disable-dev-shm-usage", "--disable-background-networking"])
            .args(["--disable-component-update", "--disable-extensions", "--force-color-profile=srgb"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // The browser reads commands from descriptor 3 and answers on 4.
        let (input, output) = (ends[0].as_raw_fd(), ends[1].as_raw_fd());
        // SAFETY: only async-signal-safe calls, on descriptors that `ends` keeps open.
        unsafe {
            command.pre_exec(move || {
                // Out of the way first: one of them may be 3 or 4 itself.
                let (high_in, high_out) =
                    (libc::fcntl(input, libc::F_DUPFD, 10), libc::fcntl(output, libc::F_DUPFD, 10));
                match libc::dup2(high_in, 3) == 3 && libc::dup2(high_out, 4) == 4 {
                    true => Ok(()),
                    false => Err(std::io::Error::last_os_error()),
                }
            });
        }
        let child =
            command.spawn().unwrap_or_else(|e| panic!("{} cannot be started: {e}", program.display()));
        let (to, from) = (File::from(OwnedFd::from(to)), BufReader::new(File::from(OwnedFd::from(from))));
        let mut browser = Self {
            child,
            to,
            from,
            session: None,
            next: 0,
            events: VecDeque::new(),
            page: String::new(),
            requests: Vec::new(),
            complaints: Vec::new(),
            _profile: profile,
        };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"}));
        let attached =
            browser.call("Target.attachToTarget", json!({"targetId": target["targetId"], "flatten": true}));
        browser.session = Some(attached["sessionId"].as_str().unwrap().to_owned());
        for domain in ["Page.enable", "Runtime.enable", "Log.enable", "Network.enable"] {
            browser.call(domain, json!({}));
        }
        // Everything is held until we let it go: what is not the page is refused and written down.
        browser.call("Fetch.enable", json!({"patterns": [{"urlPattern": "*"}]}));
        browser
    }

    /// How it is looked at from now on.
    pub fn view(&mut self, v: View) {
        let scale = if v.phone { 2 } else { 1 };
        self.call(
            "Emulation.setDeviceMetricsOverride",
            json!({"width": v.width, "height": v.height, "deviceScaleFactor": scale, "mobile": v.phone}),
        );
        let scheme = if v.dark { "dark" } else { "light" };
        self.call(
            "Emulation.setEmulatedMedia",
            json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]}),
        );
    }

    /// Opens a file and waits until its charts are drawn.
    pub fn open(&mut self, file: &Path) {
        self.page = format!("file://{}", file.display());
        let url = self.page.clone();
        self.call("Page.navigate", json!({"url": url}));
        self.until(
            "document.readyState === 'complete' && document.documentElement.dataset.drawn !== undefined",
        );
    }

    /// What an expression is, in the page.
    pub fn eval(&mut self, expression: &str) -> Value {
        let answer = self.call(
            "Runtime.evaluate",
            json!({"expression": expression, "returnByValue": true, "awaitPromise": true}),
        );
        assert!(answer.get("exceptionDetails").is_none(), "{expression}: {answer:#}");
        answer["result"]["value"].clone()
    }

    /// Waits until an expression is true.
    #[track_caller]
    pub fn until(&mut self, expression: &str) {
        let start = Instant::now();
        while self.eval(expression) != json!(true) {
            assert!(start.elapsed() < PATIENCE, "never came true: {expression}\n{:?}", self.complaints);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Moves the pointer; the position is one of the visible part, in CSS pixels.
    pub fn point(&mut self, x: f64, y: f64) {
        self.call("Input.dispatchMouseEvent", json!({"type": "mouseMoved", "x": x, "y": y}));
    }

    /// Presses a key by its name (`ArrowRight`, `Tab`).
    pub fn press(&mut self, key: &str) {
        for kind in ["keyDown", "keyUp"] {
            let code = match key {
                "Tab" => 9,
                "Escape" => 27,
                "End" => 35,
                "Home" => 36,
                "ArrowLeft" => 37,
                "ArrowRight" => 39,
                _ => 0,
            };
            self.call(
                "Input.dispatchKeyEvent",
                json!({"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code}),
            );
        }
    }

    /// A picture of the whole page.
    pub fn picture(&mut self, file: &Path) {
        let clip = self.whole();
        let shot = self.call(
            "Page.captureScreenshot",
            json!({"format": "png", "captureBeyondViewport": true, "clip": clip}),
        );
        save(file, &shot["data"]);
    }

    /// The page as it would be printed.
    pub fn print(&mut self, file: &Path) {
        let pdf = self.call("Page.printToPDF", json!({"printBackground": true, "preferCSSPageSize": true}));
        save(file, &pdf["data"]);
    }

    fn whole(&mut self) -> Value {
        let size = self.call("Page.getLayoutMetrics", json!({}))["cssContentSize"].clone();
        json!({"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1})
    }

    fn call(&mut self, method: &str, params: Value) -> Value {
        let id = self.send(method, params);
        let start = Instant::now();
        loop {
            assert!(start.elapsed() < PATIENCE, "the browser does not answer {method}");
            let message = self.read();
            if message["id"] == json!(id) {
                assert!(message.get("error").is_none(), "{method}: {message:#}");
                self.drain();
                return message["result"].clone();
            }
            if message.get("method").is_some() {
                self.hear(message);
            }
        }
    }

    fn send(&mut self, method: &str, params: Value) -> u64 {
        self.next += 1;
        let mut message = json!({"id": self.next, "method": method, "params": params});
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        self.to.write_all(message.to_string().as_bytes()).and_then(|()| self.to.write_all(b"\0")).unwrap();
        self.next
    }

    fn read(&mut self) -> Value {
        if self.from.buffer().is_empty() {
            let answers = PollFd::new(self.from.get_ref().as_fd(), PollFlags::POLLIN);
            let patience = PollTimeout::try_from(PATIENCE).unwrap();
            assert!(poll(&mut [answers], patience).unwrap() > 0, "the browser says nothing any more");
        }
        let mut bytes = Vec::new();
        self.from.read_until(0, &mut bytes).unwrap();
        bytes.pop();
        assert!(!bytes.is_empty(), "the browser has gone: {:?}", self.child.try_wait());
        serde_json::from_slice(&bytes).unwrap()
    }

    fn hear(&mut self, event: Value) {
        let params = &event["params"];
        match event["method"].as_str().unwrap() {
            // Sent on at once, or the page would wait for ever.
            "Fetch.requestPaused" => {
                let (id, url) = (params["requestId"].clone(), params["request"]["url"].as_str().unwrap());
                if url == self.page || url == "about:blank" {
                    self.send("Fetch.continueRequest", json!({"requestId": id}));
                } else {
                    self.requests.push(url.to_owned());
                    self.send("Fetch.failRequest", json!({"requestId": id, "errorReason": "AccessDenied"}));
                }
            }
            _ => self.events.push_back(event),
        }
    }

    fn drain(&mut self) {
        while let Some(event) = self.events.pop_front() {
            let params = &event["params"];
            match event["method"].as_str().unwrap() {
                "Network.requestWillBeSent" => {
                    let url = params["request"]["url"].as_str().unwrap();
                    if url != self.page && !url.starts_with("data:") && url != "about:blank" {
                        self.requests.push(url.to_owned());
                    }
                }
                "Runtime.consoleAPICalled"
                    if ["error", "warning", "assert"].iter().any(|k| params["type"] == *k) =>
                {
                    self.complaints.push(params["args"].to_string());
                }
                "Runtime.exceptionThrown" => self.complaints.push(params["exceptionDetails"].to_string()),
                "Log.entryAdded" => self.complaints.push(params["entry"]["text"].to_string()),
                _ => {}
            }
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It may have gone already; either way nothing of it is left.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn save(file: &Path, data: &Value) {
    let bytes = base64::engine::general_purpose::STANDARD.decode(data.as_str().unwrap()).unwrap();
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(file, bytes).unwrap();
}

fn find() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("AUTOFIT_TEST_CHROMIUM") {
        return Some(named.into());
    }
    let path = std::env::var_os("PATH")?;
    let places: Vec<PathBuf> = std::env::split_paths(&path).collect();
    NAMES.iter().find_map(|name| places.iter().map(|p| p.join(name)).find(|p| p.is_file()))
}
