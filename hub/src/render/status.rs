//! The text for the hub and its instances. It shows what the hub reported, and derives no state of its own.

use super::{ago, duration, list, table, text, until};
use serde_json::Value;
use std::collections::BTreeSet;

/// Renders the hub and all instances: the answer to `GET /status`.
#[must_use]
pub fn overview(status: &Value) -> String {
    let hub = &status["hub"];
    let mut out = format!(
        "hub {}  pid {}  up {}  version {}\n",
        text(&hub["url"]),
        hub["pid"],
        duration(hub["uptime_seconds"].as_f64().unwrap_or_default()),
        text(&hub["version"]),
    );
    for warning in list(&hub["warnings"]) {
        out.push_str(&format!("warning: {}\n", text(warning)));
    }
    out.push('\n');
    let instances = list(&status["instances"]);
    if instances.is_empty() {
        out.push_str(
            "there are no instances yet: linchpin run --name NAME -- COMMAND, or linchpin run --mcp -- COMMAND\n",
        );
    } else {
        let head = ["NAME", "STATE", "SINCE", "PID", "PROCESSES", "SERVERS", "PROJECT"].map(str::to_owned).to_vec();
        let rows: Vec<_> = std::iter::once(head).chain(instances.iter().map(row)).collect();
        out.push_str(&table(&rows));
    }
    for rejected in list(&status["rejected"]) {
        let why = &rejected["problem"];
        let at = &why["observed"]["put_aside_at"];
        let moved = if at.is_null() { String::new() } else { format!(" (moved to the quarantine {} ago)", ago(at)) };
        out.push_str(&format!("ignored: {}: {}{moved}\n", text(&rejected["path"]), text(&why["detail"])));
    }
    if let Some(files @ 1..) = status["quarantine"]["files"].as_u64() {
        let since = ago(&status["quarantine"]["since"]);
        out.push_str(&format!("files in the quarantine: {files}, the oldest one for {since}\n"));
    }
    out
}

fn row(instance: &Value) -> Vec<String> {
    vec![
        text(&instance["name"]),
        text(&instance["state"]),
        ago(&instance["since"]),
        text(&instance["pid"]),
        processes(instance),
        servers(instance),
        text(&instance["project_dir"]),
    ]
}

fn processes(instance: &Value) -> String {
    let all: Vec<String> = list(&instance["processes"]).iter().map(process).collect();
    if all.is_empty() { "-".to_owned() } else { all.join(", ") }
}

/// Renders a process with its name, state and ports: `main running :5173`. For a process that keeps ending, it adds how
/// often it was restarted, how it ended, and when the next start is.
fn process(process: &Value) -> String {
    let mut shown = format!("{} {}", text(&process["name"]), text(&process["state"]));
    let ports: BTreeSet<u64> = list(&process["ports"]).iter().filter_map(|at| at["port"].as_u64()).collect();
    for port in ports {
        shown.push_str(&format!(" :{port}"));
    }
    let mut more = Vec::new();
    if let Some(restarts @ 1..) = process["restarts"].as_u64() {
        more.push(format!("restarts: {restarts}"));
    }
    if process["state"] == "waiting" {
        more.extend(process["last_end"].as_str().map(|end| format!("ended: {end}")));
        more.extend(until(&process["next_start"]).map(|left| format!("next start in {left}")));
    }
    if more.is_empty() { shown } else { format!("{shown} ({})", more.join("; ")) }
}

fn servers(instance: &Value) -> String {
    let all: Vec<String> = list(&instance["servers"]).iter().map(server).collect();
    if all.is_empty() { "-".to_owned() } else { all.join(", ") }
}

/// Renders a server: `main ready (3 tools)`. If it is not ready, it adds for how long and why.
fn server(server: &Value) -> String {
    let session = text(&server["session"]);
    let mut shown = format!("{} {session} ({} tools)", text(&server["name"]), server["tools"]);
    if session != "ready" {
        if !server["session_since"].is_null() {
            shown.push_str(&format!(" for {}", ago(&server["session_since"])));
        }
        if let Some(why) = server["session_why"].as_str() {
            shown.push_str(&format!(": {why}"));
        }
    }
    shown
}

/// Renders one instance: the answer to `GET /v1/instances/NAME`.
#[must_use]
pub fn instance(instance: &Value) -> String {
    let mut out = String::new();
    for (field, value) in instance.as_object().into_iter().flatten() {
        let shown = match value {
            Value::Null => continue,
            Value::String(text) => text.clone(),
            Value::Bool(_) | Value::Number(_) => value.to_string(),
            Value::Array(_) if field == "processes" => processes(instance),
            Value::Array(_) if field == "servers" => servers(instance),
            Value::Array(_) | Value::Object(_) => continue,
        };
        out.push_str(&format!("{field:<16} {shown}\n"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_empty_hub_shows_the_next_step() {
        let shown =
            overview(&json!({"hub": {"url": "http://127.0.0.1:7777", "pid": 1, "uptime_seconds": 3, "version": "0"}}));
        assert!(shown.contains("linchpin run"), "{shown}");
    }

    #[test]
    fn a_process_shows_where_it_listens() {
        let at = |address: &str| json!({"port": 5173, "address": address});
        let one = json!({"name": "main", "state": "running", "restarts": 2, "ports": [at("127.0.0.1"), at("::1")]});
        assert_eq!(process(&one), "main running :5173 (restarts: 2)");
        assert_eq!(process(&json!({"name": "main", "state": "waiting", "restarts": 0})), "main waiting");
    }

    #[test]
    fn a_process_that_keeps_ending_is_told_with_its_prospects() {
        let next = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(30);
        let crashing =
            json!({"name": "main", "state": "waiting", "restarts": 7, "last_end": "exit 3", "next_start": next});
        let shown = process(&crashing);
        assert!(shown.starts_with("main waiting (restarts: 7; ended: exit 3; next start in "), "{shown}");
        assert_eq!(process(&json!({"name": "main", "state": "running", "restarts": 0})), "main running");
    }

    #[test]
    fn a_server_that_takes_its_time_is_told_since_when() {
        let since = jiff::Timestamp::now() - jiff::SignedDuration::from_secs(8);
        let starting = json!({"name": "main", "session": "starting", "session_since": since, "tools": 0});
        assert_eq!(server(&starting), "main starting (0 tools) for 8 s");
        let down = json!({"name": "main", "session": "down", "session_why": "no answer", "tools": 2});
        assert_eq!(server(&down), "main down (2 tools): no answer");
        let ready = json!({"name": "main", "session": "ready", "session_since": since, "tools": 2});
        assert_eq!(server(&ready), "main ready (2 tools)");
    }

    #[test]
    fn ignored_files_are_shown() {
        let status =
            json!({"hub": {}, "instances": [], "rejected": [{"path": "/r/x.json", "problem": {"detail": "not JSON"}}]});
        assert!(overview(&status).contains("ignored: /r/x.json: not JSON"));
    }
}
