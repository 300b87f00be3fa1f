//! `linchpin explain NAME`.
//!
//! Owns how a link's story looks at a terminal: what it is, why, what comes next, and how it came to that.
//! Never: interprets; the hub's `/v1/instances/NAME/link` says all of it.

use super::Context;
use super::client::{Client, segment};
use super::output::table;
use super::status::{ago, list, text};
use linchpin_shared::problem::{Exit, Problem};
use serde_json::Value;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The instance
    name: String,
    /// How many of the last transitions to show; the hub keeps 200
    #[arg(long, short = 'n', default_value_t = 20)]
    lines: usize,
}

pub(super) async fn main(context: &Context, args: Args) -> Result<Exit, Problem> {
    let client = Client::new(context).await?;
    let link = client.get(&format!("/v1/instances/{}/link", segment(&args.name))).await?;
    context.output.value(&link, |link| explain(link, args.lines));
    Ok(Exit::Ok)
}

fn explain(link: &Value, lines: usize) -> String {
    let mut out = format!(
        "{} is {} since {}: {}\n",
        text(&link["name"]),
        text(&link["state"]),
        ago(&link["since"]),
        text(&link["why"])
    );
    let failure = &link["last_failure"];
    if failure.is_object() {
        out.push_str(&format!("last failure: {} while {}\n", text(&failure["kind"]), text(&failure["phase"])));
        for cause in list(&failure["causes"]) {
            out.push_str(&format!("  because: {}\n", text(cause)));
        }
    }
    let attempts = link["attempts"].as_u64().unwrap_or_default();
    if attempts > 0 {
        out.push_str(&format!("attempts since it was last connected: {attempts}\n"));
    }
    if link["next_try"].is_string() {
        out.push_str(&format!("next try: {}\n", text(&link["next_try"])));
    }
    for process in list(&link["processes"]) {
        out.push_str(&self::process(process));
    }
    let transitions = list(&link["transitions"]);
    out.push_str(&format!("\nlast {} of {} transitions:\n", lines.min(transitions.len()), transitions.len()));
    let rows: Vec<_> = transitions.iter().skip(transitions.len().saturating_sub(lines)).map(row).collect();
    out.push_str(&table(&rows));
    out
}

/// What a process does and where it listens, beside where it was to.
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
        let but = if there { "" } else { ", where it does not listen" };
        out.push_str(&format!(", was given PORT={given}{but}"));
    }
    if let Some(end) = process["last_end"].as_str() {
        out.push_str(&format!("; it ended last with {end}"));
    }
    out.push('\n');
    out
}

fn row(transition: &Value) -> Vec<String> {
    vec![
        text(&transition["at"]),
        format!("{} → {}", text(&transition["from"]), text(&transition["to"])),
        text(&transition["why"]),
    ]
}
