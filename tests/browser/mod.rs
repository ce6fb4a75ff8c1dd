//! A real headless Chromium, driven through its DevTools protocol: opens a page, reads it, clicks, takes its picture.
//!
//! Promises that nothing leaves but what a test allows, that every trouble of the page (an error on its console, a script
//! that failed, a request that was stopped, a dialog) is kept for the test, and that the browser ends with the test.
//! Speaks over a pipe (`--remote-debugging-pipe`: JSON, each ended by NUL): no port, no crate, no driver program.

// Test code, shared by test binaries that each use a part of it.
#![allow(clippy::unwrap_used, clippy::expect_used, dead_code)]

pub mod inspection;
pub mod looks;

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use base64::Engine as _;
use serde_json::{Value, json};

/// What it is called, first on PATH wins; `localstack/lib/find.py` looks for the same.
const NAMES: [&str; 6] =
    ["chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"];
/// Long enough for a busy machine; nothing waits this long unless it fails.
const LONG: Duration = Duration::from_secs(60);
/// Pages are our own, and containers and CI have no namespaces for the sandbox. The rest keeps it from calling home.
const FLAGS: [&str; 10] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
];

/// A browser with one page.
pub struct Browser {
    child: Child,
    commands: ChildStdin,
    heard: Receiver<Value>,
    last_id: u64,
    session: Option<String>,
    may_load: Vec<String>,
    is_loaded: bool,
    troubles: Vec<String>,
    /// Its profile, and pictures of what failed until they are moved out.
    folder: tempfile::TempDir,
}

fn program() -> PathBuf {
    if let Some(named) = std::env::var_os("QUITTANCE_BROWSER").filter(|named| !named.is_empty()) {
        return named.into();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found =
        NAMES.iter().find_map(|name| std::env::split_paths(&path).map(|in_| in_.join(name)).find(|at| at.is_file()));
    found.unwrap_or_else(|| {
        panic!(
            "no browser: install Chromium (Debian, Ubuntu: chromium-headless-shell or chromium; else chromium or Google \
             Chrome), or set QUITTANCE_BROWSER to one; looked for {NAMES:?} on PATH"
        )
    })
}

impl Browser {
    /// Starts one, with an empty page and an empty profile.
    pub fn start() -> Self {
        let (program, folder) = (program(), tempfile::tempdir().unwrap());
        // The browser wants its pipe as descriptors 3 and 4; the shell puts our two there.
        let mut command = Command::new("sh");
        command.args(["-c", r#"exec "$@" 3<&0 4>&1 0</dev/null 1>&2"#, "sh"]).arg(&program).args(FLAGS);
        command.arg(format!("--user-data-dir={}", folder.path().display())).arg("about:blank");
        let log = std::fs::File::create(folder.path().join("browser.log")).unwrap();
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let (commands, mut replies) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let (says, heard) = channel();
        std::thread::spawn(move || {
            let mut message = Vec::new();
            while replies.read_until(0, &mut message).is_ok_and(|read| read > 0) {
                message.pop();
                let Ok(message_) = serde_json::from_slice(&message) else { return };
                message.clear();
                if says.send(message_).is_err() {
                    return;
                }
            }
        });
        let mut browser = Self {
            child,
            commands,
            heard,
            last_id: 0,
            session: None,
            may_load: Vec::new(),
            is_loaded: false,
            troubles: Vec::new(),
            folder,
        };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" }))["targetId"].take();
        let attached = browser.call("Target.attachToTarget", json!({ "targetId": target, "flatten": true }));
        browser.session = Some(attached["sessionId"].as_str().unwrap().to_owned());
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        browser.call("Fetch.enable", json!({ "patterns": [{ "urlPattern": "*" }] }));
        browser
    }

    /// Opens a page that may load what begins so, besides itself, and waits until it is loaded.
    pub fn open(&mut self, url: &str, may_load: &[&str]) {
        self.may_load = std::iter::once(url).chain(may_load.iter().copied()).map(str::to_owned).collect();
        (self.is_loaded, self.troubles) = (false, Vec::new());
        let gone = self.call("Page.navigate", json!({ "url": url }));
        assert_eq!(gone.get("errorText"), None, "{url}: {gone}");
        let deadline = Instant::now() + LONG;
        while !self.is_loaded {
            self.listen("the page's load", deadline);
        }
    }

    /// Opens a file.
    pub fn open_file(&mut self, path: &Path) {
        self.open(&format!("file://{}", path.display()), &[]);
    }

    /// What an expression is, in the page.
    pub fn ask(&mut self, expression: &str) -> Value {
        let asked = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let mut answer = self.call("Runtime.evaluate", asked);
        assert_eq!(answer.get("exceptionDetails"), None, "{expression}: {answer}");
        answer["result"]["value"].take()
    }

    /// Waits until an expression is true in the page.
    pub fn until(&mut self, expression: &str) {
        let deadline = Instant::now() + LONG;
        while self.ask(expression) != json!(true) {
            assert!(Instant::now() < deadline, "not within {LONG:?}: {expression}; the page: {}", self.words());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The page as it reads.
    pub fn words(&mut self) -> String {
        self.ask("document.body.innerText").as_str().unwrap().to_owned()
    }

    /// A click of the mouse on the middle of what a selector names first.
    pub fn click(&mut self, selector: &str) {
        let at = self.ask(&format!(
            "(() => {{ const it = document.querySelector({}); if (!it) return null; it.scrollIntoView({{ block: 'center' }}); \
             const r = it.getBoundingClientRect(); return {{ x: r.x + r.width / 2, y: r.y + r.height / 2 }} }})()",
            json!(selector)
        ));
        assert!(at.is_object(), "nothing is {selector}");
        for what in ["mousePressed", "mouseReleased"] {
            let event = json!({ "type": what, "x": at["x"], "y": at["y"], "button": "left", "clickCount": 1 });
            self.call("Input.dispatchMouseEvent", event);
        }
    }

    /// A window of this size, CSS pixels.
    pub fn resize(&mut self, width: u32, height: u32) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.call("Emulation.setDeviceMetricsOverride", size);
        self.settle();
    }

    /// `light` or `dark`, as the reader's system would say.
    pub fn scheme(&mut self, scheme: &str) {
        let feature = json!({ "name": "prefers-color-scheme", "value": scheme });
        self.call("Emulation.setEmulatedMedia", json!({ "features": [feature] }));
        self.settle();
    }

    /// Until what was asked is painted.
    fn settle(&mut self) {
        self.ask("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))");
    }

    /// What went wrong in the page so far.
    pub fn troubles(&mut self) -> Vec<String> {
        self.settle();
        self.troubles.clone()
    }

    /// A picture of all of the page, as PNG.
    pub fn picture(&mut self, to: &Path) {
        let size = self.ask("[document.documentElement.clientWidth, document.documentElement.scrollHeight]");
        let clip = json!({ "x": 0, "y": 0, "width": size[0], "height": size[1], "scale": 1 });
        let asked = json!({ "format": "png", "captureBeyondViewport": true, "clip": clip });
        let taken = self.call("Page.captureScreenshot", asked);
        let bytes = base64::engine::general_purpose::STANDARD.decode(taken["data"].as_str().unwrap()).unwrap();
        std::fs::write(to, bytes).unwrap();
    }

    /// Where pictures of failures go: kept, and named in the failure.
    pub fn keep(&mut self, name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("quittance-pages-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let at = folder.join(format!("{name}.png"));
        self.picture(&at);
        at
    }

    fn send(&mut self, method: &str, params: Value) -> u64 {
        self.last_id += 1;
        let mut message = json!({ "id": self.last_id, "method": method, "params": params });
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        let sent = self.commands.write_all(format!("{message}\0").as_bytes());
        assert!(sent.is_ok(), "{method}: {sent:?}; {}", self.last_words());
        self.last_id
    }

    fn call(&mut self, method: &str, params: Value) -> Value {
        let (id, deadline) = (self.send(method, params), Instant::now() + LONG);
        loop {
            if let Some(mut reply) = self.listen(method, deadline).filter(|reply| reply["id"] == id) {
                assert_eq!(reply.get("error"), None, "{method}: {reply}");
                return reply["result"].take();
            }
        }
    }

    /// The next message; what is no reply is heeded.
    fn listen(&mut self, what: &str, deadline: Instant) -> Option<Value> {
        let left = deadline.saturating_duration_since(Instant::now());
        let message = self.heard.recv_timeout(left);
        let message = message.unwrap_or_else(|error| panic!("waiting for {what}: {error}; {}", self.last_words()));
        let params = &message["params"];
        match message["method"].as_str().unwrap_or_default() {
            "" => return Some(message),
            "Page.loadEventFired" => self.is_loaded = true,
            "Page.javascriptDialogOpening" => {
                self.troubles.push(format!("a dialog: {}", params["message"]));
                self.send("Page.handleJavaScriptDialog", json!({ "accept": false }));
            }
            "Runtime.exceptionThrown" => self.troubles.push(format!("a script failed: {}", params["exceptionDetails"])),
            "Runtime.consoleAPICalled" if ["error", "assert", "warning"].iter().any(|bad| params["type"] == *bad) => {
                self.troubles.push(format!("console.{}: {}", params["type"], params["args"]));
            }
            "Log.entryAdded" if ["error", "warning"].iter().any(|bad| params["entry"]["level"] == *bad) => {
                self.troubles.push(format!("the console: {}", params["entry"]["text"]));
            }
            "Inspector.targetCrashed" => panic!("the page crashed; {}", self.last_words()),
            "Fetch.requestPaused" => {
                let url = params["request"]["url"].as_str().unwrap_or_default();
                let id = json!({ "requestId": params["requestId"] });
                if self.may_load.iter().any(|beginning| url.starts_with(beginning.as_str())) {
                    self.send("Fetch.continueRequest", id);
                } else {
                    self.troubles.push(format!("a request to {url}"));
                    let id = json!({ "requestId": params["requestId"], "errorReason": "InternetDisconnected" });
                    self.send("Fetch.failRequest", id);
                }
            }
            _ => {}
        }
        None
    }

    fn last_words(&self) -> String {
        let log = std::fs::read_to_string(self.folder.path().join("browser.log")).unwrap_or_default();
        let from = log.char_indices().rev().nth(2_000).map_or(0, |(at, _)| at);
        format!("{} said: {}", program().display(), &log[from..])
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        drop((self.child.kill(), self.child.wait()));
    }
}
