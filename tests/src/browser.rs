//! A real Chromium without a screen, driven over its own protocol by a pair of pipes: a person's tab, with everything that a page did
//! wrong in it.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use data_encoding::BASE64;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::poll;
use tokio::sync::oneshot;

mod wire;

use wire::Wire;

const PATIENCE: Duration = Duration::from_secs(30);

/// The browser, ended when dropped.
#[derive(Debug)]
pub struct Browser {
    child: Child,
    wire: Arc<Wire>,
    _dir: TempDir,
}

/// What a tab looks like.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    /// The colours that the person prefers.
    pub is_dark: bool,
    /// Width and height in pixels.
    pub size: (u32, u32),
}

impl Default for Look {
    fn default() -> Self {
        Self { is_dark: false, size: (1360, 900) }
    }
}

/// One tab.
#[derive(Debug)]
pub struct Tab {
    wire: Arc<Wire>,
    session: String,
    seen: Arc<Mutex<Seen>>,
}

/// What a tab did.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Errors of the console, refusals of the page's own policy, exceptions.
    pub errors: Vec<String>,
    /// Every URL that was asked for.
    pub requests: Vec<String>,
}

impl Browser {
    /// Whether there is one on this machine.
    #[must_use]
    pub fn is_here() -> bool {
        Command::new("chromium").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
    }

    /// Starts it.
    ///
    /// # Panics
    /// When it does not come up.
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let [to, from] = ["to", "from"].map(|name| dir.path().join(name));
        for pipe in [&to, &from] {
            nix::unistd::mkfifo(pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        }
        let log = File::create(dir.path().join("log")).unwrap();
        let mut command = Command::new("sh");
        // It reads its orders from descriptor 3 and answers on 4.
        command.args(["-c", r#"exec chromium "$@" 3<"$TO" 4>"$FROM""#, "chromium"]);
        command.args([
            "--headless=new",
            "--remote-debugging-pipe",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--disable-component-update",
            "--no-first-run",
            "--hide-scrollbars",
            "--force-color-profile=srgb",
        ]);
        command.arg(format!("--user-data-dir={}", dir.path().join("profile").display()));
        command.env("TO", &to).env("FROM", &from).env("HOME", dir.path());
        let (wire, ends) = Wire::open(&to, &from);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let wire = wire.run(ends);
        wire.call(None, "Target.getTargets", json!({})).await;
        Self { child, wire, _dir: dir }
    }

    /// Opens a tab of its own, as another person would, and nothing in it yet.
    ///
    /// # Panics
    /// When it cannot.
    pub async fn tab(&self, look: Look) -> Tab {
        let wire = &self.wire;
        let context = wire.call(None, "Target.createBrowserContext", json!({})).await;
        let target = wire
            .call(
                None,
                "Target.createTarget",
                json!({"url": "about:blank", "browserContextId": context["browserContextId"]}),
            )
            .await;
        let attached = wire
            .call(None, "Target.attachToTarget", json!({"targetId": target["targetId"], "flatten": true}))
            .await;
        let session = attached["sessionId"].as_str().unwrap().to_owned();
        let seen = wire.watch(&session);
        let tab = Tab { wire: wire.clone(), session, seen };
        for domain in ["Page", "Runtime", "Log", "Network"] {
            tab.call(&format!("{domain}.enable"), json!({})).await;
        }
        let (width, height) = look.size;
        let metrics =
            json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600});
        tab.call("Emulation.setDeviceMetricsOverride", metrics).await;
        let scheme = if look.is_dark { "dark" } else { "light" };
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        tab.call("Emulation.setEmulatedMedia", features).await;
        tab
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Tab {
    /// Gives an order of the protocol.
    pub async fn call(&self, method: &str, params: Value) -> Value {
        self.wire.call(Some(&self.session), method, params).await
    }

    /// Goes to a URL and waits until it is loaded.
    ///
    /// # Panics
    /// When it never is.
    pub async fn open(&self, url: &str) {
        let told = self.call("Page.navigate", json!({"url": url})).await;
        assert!(told["errorText"].is_null(), "{url}: {told}");
        self.until(
            &format!("{url} to be loaded"),
            "document.readyState === 'complete' && location.href !== 'about:blank'",
        )
        .await;
    }

    /// The value of an expression; a promise is waited for.
    ///
    /// # Panics
    /// When it throws.
    pub async fn eval(&self, expression: &str) -> Value {
        let params = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let told = self.call("Runtime.evaluate", params).await;
        assert!(told["exceptionDetails"].is_null(), "{expression}: {told}");
        told["result"]["value"].clone()
    }

    /// Waits until an expression is true.
    ///
    /// # Panics
    /// When it never is.
    pub async fn until(&self, what: &str, expression: &str) {
        poll::until_async(PATIENCE, what, || async {
            // In the middle of a navigation there is nothing to ask.
            let params = json!({"expression": expression, "returnByValue": true});
            let told = self.call("Runtime.evaluate", params).await;
            (told["result"]["value"] == true).then_some(())
        })
        .await;
    }

    /// Presses a key, for example `j`, `Enter`, `Escape`.
    pub async fn press(&self, key: &str) {
        let is_text = key.chars().count() == 1;
        let text = if is_text {
            key
        } else if key == "Enter" {
            "\r"
        } else {
            ""
        };
        let code = match key {
            "Enter" => 13,
            "Escape" => 27,
            "Tab" => 9,
            _ => 0,
        };
        let down = if text.is_empty() { "rawKeyDown" } else { "keyDown" };
        self.call(
            "Input.dispatchKeyEvent",
            json!({"type": down, "key": key, "text": text, "windowsVirtualKeyCode": code}),
        )
        .await;
        self.call(
            "Input.dispatchKeyEvent",
            json!({"type": "keyUp", "key": key, "windowsVirtualKeyCode": code}),
        )
        .await;
    }

    /// Types a text.
    pub async fn type_text(&self, text: &str) {
        self.call("Input.insertText", json!({"text": text})).await;
    }

    /// What is shown now, as PNG.
    ///
    /// # Panics
    /// When no picture comes.
    pub async fn picture(&self, path: &Path) {
        let told = self.call("Page.captureScreenshot", json!({"format": "png"})).await;
        let picture = BASE64.decode(told["data"].as_str().unwrap().as_bytes()).unwrap();
        std::fs::write(path, picture).unwrap();
    }

    /// What it has done so far.
    #[must_use]
    pub fn seen(&self) -> Seen {
        self.seen.lock().clone()
    }
}

/// A reply that is awaited.
type Awaited = oneshot::Sender<Value>;
