//! The text for the history of a link: what it is doing, why, what comes next, and how it got there.
//!
//! Everything comes from `/v1/instances/NAME/link`; nothing is interpreted here.

use super::{ago, duration, list, table, text};
use jiff::Timestamp;
use serde_json::Value;

/// Renders the history, with the last `lines` transitions.
#[must_use]
pub fn explain(link: &Value, lines: usize) -> String {
    let (name, state, since) = (text(&link["name"]), text(&link["state"]), ago(&link["since"]));
    let mut out = format!("{name} is {state} (for {since}): {}\n", text(&link["why"]));
    failure(&link["last_failure"], &mut out);
    let attempts = link["attempts"].as_u64().unwrap_or_default();
    if attempts > 0 {
        out.push_str(&format!("attempts since the link was last healthy: {attempts}\n"));
    }
    if link["next_try"].is_string() {
        out.push_str(&format!("next try: {} ({})\n", ahead(&link["next_try"]), text(&link["next_try"])));
    }
    let connection = &link["connection"];
    if connection.is_object() {
        let (number, since) = (&connection["number"], ago(&connection["since"]));
        out.push_str(&format!("connection: number {number}, for {since}; {} dials so far\n", link["dials"]));
    }
    breaker(link, &mut out);
    quality(&link["health"], &mut out);
    for process in list(&link["processes"]) {
        out.push_str(&self::process(process));
    }
    let transitions = list(&link["transitions"]);
    out.push_str(&format!("\nlast {} of {} transitions:\n", lines.min(transitions.len()), transitions.len()));
    let rows: Vec<_> = transitions.iter().skip(transitions.len().saturating_sub(lines)).map(row).collect();
    out.push_str(&table(&rows));
    out
}

/// Renders what a process is doing and where it listens, compared with the port that it was given.
fn process(process: &Value) -> String {
    let mut out = format!("process {}: {}", text(&process["name"]), text(&process["state"]));
    if let Some(pid) = process["pid"].as_u64() {
        out.push_str(&format!(", pid {pid}"));
    }
    let ports = list(&process["ports"]);
    for at in ports {
        out.push_str(&format!(", listens on port {} of {}", at["port"], text(&at["address"])));
    }
    if let Some(given) = process["given_port"].as_u64() {
        let there = ports.iter().any(|at| at["port"] == given);
        let but = if there { "" } else { ", but does not listen there" };
        out.push_str(&format!(", was given PORT={given}{but}"));
    }
    if let Some(end) = process["last_end"].as_str() {
        out.push_str(&format!("; it last ended with {end}"));
    }
    out.push('\n');
    out
}

fn failure(failure: &Value, out: &mut String) {
    if !failure.is_object() {
        return;
    }
    let after = failure["after_ms"].as_u64().filter(|after| *after > 0);
    let after = after.map_or_else(String::new, |after| format!(", after {after} ms"));
    out.push_str(&format!("last failure: {} while in {}{after}\n", text(&failure["kind"]), text(&failure["phase"])));
    for cause in list(&failure["causes"]) {
        out.push_str(&format!("  because: {}\n", text(cause)));
    }
    if let Some(wanted) = failure["retry_after_ms"].as_u64() {
        out.push_str(&format!("  it asked for a pause of {wanted} ms\n"));
    }
}

fn breaker(link: &Value, out: &mut String) {
    let breaker = &link["breaker"];
    out.push_str(&match breaker["state"].as_str() {
        Some("closed") => format!("breaker: closed, failures in a row: {}", breaker["failures"]),
        Some("open") => format!("breaker: open, the next probe comes in {} at the latest", ahead(&breaker["until"])),
        Some("half_open") => format!("breaker: half open, probes answered in a row: {}", breaker["successes"]),
        Some(_) | None => return,
    });
    let trip = &link["last_trip"];
    if trip.is_object() {
        let (ago, why) = (ago(&trip["at"]), text(&trip["why"]));
        let often = if link["trips"] == 1 { "once".to_owned() } else { format!("{} times", link["trips"]) };
        out.push_str(&format!("; opened {often}, most recently {ago} ago: {why}"));
    }
    out.push('\n');
}

fn quality(health: &Value, out: &mut String) {
    if !health.is_object() {
        return;
    }
    let ms = |field: &str| health[field].as_f64().unwrap_or_default() / 1000.0;
    out.push_str(&format!(
        "quality: {} (1 is best), round trip {:.2} ms, median {:.2} ms, 99 % within {:.2} ms\n",
        health["quality"],
        ms("round_trip_us"),
        ms("p50_us"),
        ms("p99_us"),
    ));
    let fails = health["fails"].as_u64().unwrap_or_default();
    let pause = health["interval_ms"].as_f64().unwrap_or_default() / 1000.0;
    out.push_str(&format!("health checks: every {}, missed in a row: {fails}\n", duration(pause)));
}

/// Returns how far in the future a time stamp is.
fn ahead(at: &Value) -> String {
    let Some(at) = at.as_str().and_then(|at| at.parse::<Timestamp>().ok()) else { return "-".to_owned() };
    duration(at.duration_since(Timestamp::now()).as_secs_f64().max(0.0))
}

fn row(transition: &Value) -> Vec<String> {
    vec![
        text(&transition["at"]),
        format!("{} → {}", text(&transition["from"]), text(&transition["to"])),
        text(&transition["why"]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_whole_history_is_shown() {
        // What is in the future counts as now, however slow the test is.
        let (at, soon) = (Timestamp::now(), Timestamp::now() + jiff::SignedDuration::from_hours(1));
        let history = json!({
            "name": "shop", "state": "tripped", "since": soon, "why": "refused: connecting to 127.0.0.1:1",
            "last_failure": {"kind": "refused", "phase": "dial", "after_ms": 3, "retry_after_ms": 2000,
                             "causes": ["connecting to 127.0.0.1:1", "Connection refused"]},
            "attempts": 6, "next_try": at, "dials": 7,
            "breaker": {"state": "open", "until": at}, "trips": 1, "last_trip": {"at": soon, "why": "refused: five times"},
            "health": {"quality": 0.9, "fails": 2, "interval_ms": 20000, "round_trip_us": 150, "p50_us": 100, "p99_us": 900},
            "transitions": [{"at": at, "from": "retrying", "to": "tripped", "why": "first"},
                            {"at": at, "from": "tripped", "to": "tripped", "why": "second"}]
        });
        let shown = explain(&history, 1);
        for line in [
            "shop is tripped (for 0 ms): refused",
            "last failure: refused while in dial, after 3 ms",
            "  because: Connection refused",
            "asked for a pause of 2000 ms",
            "attempts since the link was last healthy: 6",
            "next try: 0 ms",
            "breaker: open",
            "opened once, most recently 0 ms ago: refused: five times",
            "quality: 0.9 (1 is best), round trip 0.15 ms, median 0.10 ms, 99 % within 0.90 ms",
            "health checks: every 20 s, missed in a row: 2",
            "last 1 of 2 transitions",
            "second",
        ] {
            assert!(shown.contains(line), "{line:?} is not in:\n{shown}");
        }
        assert!(!shown.contains("first"), "{shown}");
    }
}
