//! Chromium's protocol on a pair of pipes: JSON, each message ended by a NUL.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::unix::pipe::{OpenOptions, Receiver, Sender};
use tokio::sync::{mpsc, oneshot};

use super::{Awaited, PATIENCE, Seen};

/// Both ends, before they are used.
pub(super) type Ends = (Sender, Receiver);

#[derive(Debug)]
pub(super) struct Wire {
    next: AtomicU64,
    awaited: Mutex<HashMap<u64, Awaited>>,
    tabs: Mutex<HashMap<String, Arc<Mutex<Seen>>>>,
    orders: mpsc::UnboundedSender<String>,
    given: Mutex<Option<mpsc::UnboundedReceiver<String>>>,
}

impl Wire {
    /// Opens the pipes; neither end waits for the other.
    pub(super) fn open(to: &Path, from: &Path) -> (Self, Ends) {
        let sender = OpenOptions::new().read_write(true).open_sender(to).unwrap();
        let receiver = OpenOptions::new().read_write(true).open_receiver(from).unwrap();
        let (orders, given) = mpsc::unbounded_channel();
        let wire = Self {
            next: AtomicU64::new(1),
            awaited: Mutex::default(),
            tabs: Mutex::default(),
            orders,
            given: Mutex::new(Some(given)),
        };
        (wire, (sender, receiver))
    }

    /// Begins to send and to read.
    pub(super) fn run(self, (mut sender, receiver): Ends) -> Arc<Self> {
        let wire = Arc::new(self);
        if let Some(mut given) = wire.given.lock().take() {
            tokio::spawn(async move {
                while let Some(order) = given.recv().await {
                    if sender.write_all(order.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
        let reading = Arc::downgrade(&wire);
        tokio::spawn(async move {
            let mut reader = BufReader::new(receiver);
            let mut message = Vec::new();
            while reader.read_until(0, &mut message).await.is_ok_and(|read| read > 0) {
                message.pop();
                let Some(wire) = reading.upgrade() else { return };
                if let Ok(message) = serde_json::from_slice(&message) {
                    wire.take(message);
                }
                message.clear();
            }
        });
        wire
    }

    /// Gives an order and waits for what becomes of it.
    pub(super) async fn call(&self, session: Option<&str>, method: &str, params: Value) -> Value {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let mut order = json!({"id": id, "method": method, "params": params});
        if let Some(session) = session {
            order["sessionId"] = session.into();
        }
        let (awaited, reply) = oneshot::channel();
        self.awaited.lock().insert(id, awaited);
        self.orders.send(format!("{order}\0")).unwrap();
        match tokio::time::timeout(PATIENCE, reply).await {
            Ok(Ok(reply)) => reply,
            _ => panic!("Chromium does not answer {method}"),
        }
    }

    /// Gathers what a tab does from now on.
    pub(super) fn watch(&self, session: &str) -> Arc<Mutex<Seen>> {
        self.tabs.lock().entry(session.to_owned()).or_default().clone()
    }

    fn take(&self, mut message: Value) {
        if let Some(id) = message["id"].as_u64() {
            if let Some(awaited) = self.awaited.lock().remove(&id) {
                let reply = if message["error"].is_null() { message["result"].take() } else { message };
                let _ = awaited.send(reply);
            }
            return;
        }
        let Some(seen) =
            message["sessionId"].as_str().and_then(|session| self.tabs.lock().get(session).cloned())
        else {
            return;
        };
        let params = &message["params"];
        let mut seen = seen.lock();
        match message["method"].as_str() {
            Some("Runtime.exceptionThrown") => seen.errors.push(params["exceptionDetails"].to_string()),
            Some("Runtime.consoleAPICalled")
                if matches!(params["type"].as_str(), Some("error" | "warning" | "assert")) =>
            {
                seen.errors.push(params["args"].to_string());
            }
            Some("Log.entryAdded")
                if matches!(params["entry"]["level"].as_str(), Some("error" | "warning")) =>
            {
                seen.errors.push(params["entry"].to_string());
            }
            Some("Network.requestWillBeSent") => {
                seen.requests.extend(params["request"]["url"].as_str().map(str::to_owned));
            }
            _ => {}
        }
    }
}
