//! A real Chromium, driven over its debugging pipe: no port that others could use, no library.
//!
//! Nothing here presses what a person could not press: elements are found by selector and clicked where they lie.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

/// How long one command of the protocol may take; a busy machine draws slowly.
const PATIENCE: Duration = Duration::from_secs(60);
/// Messages of the browser that wait to be read.
const MESSAGES: usize = 10_000;

/// A browser with a profile of its own.
pub struct Browser {
    child: Child,
    stdin: ChildStdin,
    messages: Receiver<Value>,
    last: u64,
    complaints: Vec<String>,
    _profile: tempfile::TempDir,
}

/// A page in it.
#[derive(Clone, Debug)]
pub struct Tab(String);

impl Browser {
    /// Starts it, with arguments beside the usual ones.
    ///
    /// # Panics
    /// When Chromium is not there: `ops/test` installs it.
    pub fn start(more: &[&str]) -> Self {
        let profile = tempfile::tempdir().expect("folder");
        // the pipe is expected at 3 and 4: what comes at 0 and 1 is moved there
        let mut child = Command::new("sh")
            .args(["-c", "exec chromium \"$@\" 3<&0 4>&1 </dev/null >/dev/null", "sh"])
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--no-first-run",
                "--remote-debugging-pipe",
            ])
            .args([
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--hide-scrollbars",
            ])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .args(more)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("a shell");
        let stdin = child.stdin.take().expect("stdin is piped");
        let stdout = child.stdout.take().expect("stdout is piped");
        let (tell, messages) = sync_channel(MESSAGES);
        std::thread::spawn(move || {
            for message in BufReader::new(stdout).split(0) {
                let Ok(message) = message else { return };
                let Ok(message) = serde_json::from_slice(&message) else { continue };
                if tell.send(message).is_err() {
                    return;
                }
            }
        });
        Self { child, stdin, messages, last: 0, complaints: Vec::new(), _profile: profile }
    }

    fn send(&mut self, session: Option<&str>, method: &str, params: Value) -> Value {
        self.last += 1;
        let mut command = json!({ "id": self.last, "method": method, "params": params });
        if let Some(session) = session {
            command["sessionId"] = session.into();
        }
        let mut bytes = command.to_string().into_bytes();
        bytes.push(0);
        self.stdin.write_all(&bytes).expect("chromium runs: ops/test installs it (Debian package chromium)");
        let begun = Instant::now();
        loop {
            let left = PATIENCE.saturating_sub(begun.elapsed());
            let message = self.messages.recv_timeout(left).unwrap_or_else(|_| panic!("no answer to {method}"));
            if message["id"] == json!(self.last) {
                assert!(message["error"].is_null(), "{method}: {}", message["error"]);
                return message["result"].clone();
            }
            self.note(&message);
        }
    }

    /// What a page could not do, and what threw in it.
    fn note(&mut self, message: &Value) {
        let params = &message["params"];
        match message["method"].as_str() {
            Some("Runtime.exceptionThrown") => self.complaints.push(params["exceptionDetails"].to_string()),
            Some("Log.entryAdded") if params["entry"]["level"] == "error" => {
                self.complaints.push(params["entry"]["text"].to_string() + " " + &params["entry"]["url"].to_string());
            }
            _ => {}
        }
    }

    /// Errors of all pages since the last call: exceptions, what a policy forbade, what could not be loaded.
    pub fn complaints(&mut self) -> Vec<String> {
        self.send(None, "Browser.getVersion", json!({}));
        std::mem::take(&mut self.complaints)
    }

    /// A new page at `url`, as wide and high as given.
    ///
    /// # Panics
    /// When the browser refuses.
    pub fn open(&mut self, url: &str, (width, height): (u32, u32)) -> Tab {
        let target = self.send(None, "Target.createTarget", json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = self.send(None, "Target.attachToTarget", attach);
        let tab = Tab(attached["sessionId"].as_str().expect("a session").to_owned());
        for domain in ["Page", "Runtime", "Log", "DOM"] {
            self.tell(&tab, &format!("{domain}.enable"), json!({}));
        }
        self.resize(&tab, (width, height));
        self.go(&tab, url);
        tab
    }

    /// Anything of the protocol, to a page.
    pub fn tell(&mut self, tab: &Tab, method: &str, params: Value) -> Value {
        self.send(Some(&tab.0), method, params)
    }

    /// Goes to an address.
    pub fn go(&mut self, tab: &Tab, url: &str) {
        self.tell(tab, "Page.navigate", json!({ "url": url }));
    }

    /// Makes the page as wide and high as given.
    pub fn resize(&mut self, tab: &Tab, (width, height): (u32, u32)) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.tell(tab, "Emulation.setDeviceMetricsOverride", size);
    }

    /// Dark or light.
    pub fn prefer(&mut self, tab: &Tab, scheme: &str) {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.tell(tab, "Emulation.setEmulatedMedia", json!({ "features": features }));
    }

    /// What an expression comes to in the page; promises are waited for.
    pub fn evaluate(&mut self, tab: &Tab, expression: &str) -> Value {
        let params =
            json!({ "expression": expression, "awaitPromise": true, "returnByValue": true, "userGesture": true });
        let result = self.tell(tab, "Runtime.evaluate", params);
        if result["exceptionDetails"].is_null() { result["result"]["value"].clone() } else { Value::Null }
    }

    /// Waits until an expression is true.
    ///
    /// # Panics
    /// When it does not become true; the text of the page is then said.
    pub fn until(&mut self, tab: &Tab, what: &str, deadline: Duration, expression: &str) {
        let begun = Instant::now();
        while self.evaluate(tab, &format!("Boolean({expression})")) != json!(true) {
            if begun.elapsed() > deadline {
                let text = self.evaluate(tab, "document.body.innerText");
                panic!("not within {deadline:?}: {what}; the page says: {text}; {:?}", self.complaints());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The middle of an element, as it lies in the window.
    fn middle(&mut self, tab: &Tab, selector: &str) -> (f64, f64) {
        let place = format!(
            "(() => {{ const it = document.querySelector({selector}); it.scrollIntoView({{ block: 'nearest' }}); \
             const box = it.getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2]; }})()",
            selector = json!(selector)
        );
        let at = self.evaluate(tab, &place);
        let number = |at: &Value| at.as_f64().unwrap_or_else(|| panic!("{selector} is not there"));
        (number(&at[0]), number(&at[1]))
    }

    /// Presses an element with the mouse, once it is there.
    ///
    /// # Panics
    /// When it does not come.
    pub fn click(&mut self, tab: &Tab, selector: &str) {
        let there = format!("document.querySelector({0}) && !document.querySelector({0}).disabled", json!(selector));
        self.until(tab, &format!("{selector} is there"), PATIENCE, &there);
        let (x, y) = self.middle(tab, selector);
        for kind in ["mousePressed", "mouseReleased"] {
            let event = json!({ "type": kind, "x": x, "y": y, "button": "left", "clickCount": 1 });
            self.tell(tab, "Input.dispatchMouseEvent", event);
        }
    }

    /// Writes where the focus is.
    pub fn write(&mut self, tab: &Tab, text: &str) {
        self.tell(tab, "Input.insertText", json!({ "text": text }));
    }

    /// Presses a key: `Enter`, `Tab`, `Escape`.
    pub fn key(&mut self, tab: &Tab, key: &str) {
        let code = match key {
            "Enter" => 13,
            "Tab" => 9,
            _ => 27,
        };
        let text = if key == "Enter" { "\r" } else { "" };
        let event =
            |kind: &str| json!({ "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text });
        self.tell(tab, "Input.dispatchKeyEvent", event("keyDown"));
        self.tell(
            tab,
            "Input.dispatchKeyEvent",
            json!({ "type": "keyUp", "key": key, "code": key, "windowsVirtualKeyCode": code }),
        );
    }

    /// Chooses a file in a field.
    pub fn choose(&mut self, tab: &Tab, selector: &str, file: &Path) {
        let document = self.tell(tab, "DOM.getDocument", json!({}));
        let query = json!({ "nodeId": document["root"]["nodeId"], "selector": selector });
        let node = self.tell(tab, "DOM.querySelector", query);
        self.tell(tab, "DOM.setFileInputFiles", json!({ "nodeId": node["nodeId"], "files": [file] }));
    }

    /// Draws the page into a PNG file.
    ///
    /// # Panics
    /// When it cannot be drawn or written.
    pub fn draw(&mut self, tab: &Tab, file: &Path) {
        let picture = self.tell(tab, "Page.captureScreenshot", json!({ "format": "png" }));
        let bytes = STANDARD.decode(picture["data"].as_str().expect("data")).expect("base64");
        std::fs::write(file, bytes).expect("the picture is written");
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
