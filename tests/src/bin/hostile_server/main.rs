//! An MCP server on standard input and output that misbehaves.
//!
//! Its first argument says how it begins: `plain`, `silent` (never answers `initialize`) or `leaves` (answers it and
//! exits); or what its list of tools is like: `huge`, `circle`, `endless`, `names`, `refused` or `flaps` (changes
//! whenever it is fetched). Its tool `act` does what its argument `do` says, see [`acts`]; its tool `stats` reports
//! what it was asked so far. Each start adds a line to the file that the second argument names. It does not end before
//! its input does, unless it is told to.

mod acts;
mod lists;

use serde_json::{Value, json};
use std::io::{BufRead, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The requests it got so far.
#[derive(Debug, Default)]
struct Stats {
    lists: AtomicU64,
    levels: AtomicU64,
    roots: AtomicU64,
}

impl Stats {
    fn count(&self, method: &str) {
        let counter = match method {
            "tools/list" => &self.lists,
            "logging/setLevel" => &self.levels,
            "notifications/roots/list_changed" => &self.roots,
            _ => return,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn tell(&self) -> String {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        json!({"lists": of(&self.lists), "levels": of(&self.levels), "roots": of(&self.roots)}).to_string()
    }
}

/// Writes bytes, and exits if the other end is closed.
fn put(bytes: &[u8]) {
    let mut out = std::io::stdout().lock();
    if out.write_all(bytes).and_then(|()| out.flush()).is_err() {
        leave();
    }
}

/// Exits at once, whatever else is running.
#[expect(clippy::disallowed_methods, reason = "a crashing server does the same")]
fn leave() -> ! {
    std::process::exit(0)
}

fn send(message: &Value) {
    put(format!("{message}\n").as_bytes());
}

fn text(text: &str) -> Value {
    json!({"content": [{"type": "text", "text": text}]})
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mode = arguments.next().unwrap_or_default();
    if let Some(starts) = arguments.next() {
        let file = std::fs::File::options().create(true).append(true).open(starts);
        let _ = file.and_then(|mut file| file.write_all(b"start\n"));
    }
    let stats = Arc::new(Stats::default());
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        let Ok(message) = serde_json::from_str::<Value>(&line) else { continue };
        let Some(method) = message["method"].as_str().map(str::to_owned) else { continue };
        stats.count(&method);
        let (mode, stats) = (mode.clone(), Arc::clone(&stats));
        if message.get("id").is_some() {
            std::thread::spawn(move || answer(&mode, &method, &message, &stats));
        }
    }
}

fn answer(mode: &str, method: &str, message: &Value, stats: &Stats) {
    let (id, params) = (&message["id"], &message["params"]);
    let result = match (method, params["name"].as_str()) {
        ("initialize", _) if mode == "silent" => return,
        ("initialize", _) => initialized(params),
        ("tools/list", _) => match lists::page(mode, params) {
            Some(page) => page,
            None => return send(&json!({"jsonrpc": "2.0", "id": id, "error": {"code": -32601, "message": "no"}})),
        },
        ("tools/call", Some("act")) => return acts::act(id, params),
        ("tools/call", Some("stats")) => text(&stats.tell()),
        ("tools/call", _) => text(params["arguments"]["text"].as_str().unwrap_or_default()),
        _ => json!({}),
    };
    send(&json!({"jsonrpc": "2.0", "id": id, "result": result}));
    match (mode, method) {
        ("leaves", "initialize") => leave(),
        ("flaps", "tools/list") => send(&json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"})),
        _ => {}
    }
}

fn initialized(params: &Value) -> Value {
    json!({
        "protocolVersion": params["protocolVersion"],
        // It has neither prompts nor resources, although it announces them.
        "capabilities": {"tools": {"listChanged": true}, "logging": {}},
        "serverInfo": {"name": "hostile", "version": "1"},
    })
}
