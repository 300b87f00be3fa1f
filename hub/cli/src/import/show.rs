//! How an import is shown to people and as JSON.
//!
//! The names of variables and headers are shown, and their values never. What looks like a secret is removed from
//! command lines and URLs.

use super::apply::ChangedFile;
use super::edit::ObjectEdit;
use super::edit_toml;
use super::plan::{EntryAction, FilePlan, ImportPlan};
use linchpin_hub::declared::{ServerEndpoint, ServerSpec};
use linchpin_shared::problem::Problem;
use linchpin_shared::redact;
use serde_json::{Value, json};
use std::fmt::Write;

/// Returns the plan as JSON.
pub(super) fn json(plan: &ImportPlan) -> Value {
    let entry = |entry: &super::plan::PlannedEntry| match &entry.action {
        EntryAction::Declare(name, not_carried_over) => {
            json!({"name": entry.name, "project": entry.project, "becomes": name, "not_carried_over": not_carried_over})
        }
        EntryAction::Linchpin => json!({"name": entry.name, "project": entry.project, "is_linchpin": true}),
        EntryAction::LeaveAlone(why) => json!({"name": entry.name, "project": entry.project, "left_alone": why}),
    };
    let file = |file: &FilePlan| {
        let new = file.changes.iter().flat_map(|change| &change.insert);
        json!({
            "agent": file.agent,
            "file": file.content.file,
            "changes": file.after.as_ref().is_ok_and(|after| *after != file.content.text),
            "entries": file.entries.iter().map(entry).collect::<Vec<_>>(),
            "new_entries": new.map(|(name, entry)| json!({"name": name, "entry": entry})).collect::<Vec<_>>(),
            "problem": file.after.as_ref().err(),
        })
    };
    let servers = plan.servers.iter().map(|(name, server)| (name.clone(), described(server)));
    json!({
        "applied": false,
        "files": plan.files.iter().map(file).collect::<Vec<_>>(),
        "servers": servers.collect::<serde_json::Map<_, _>>(),
    })
}

fn described(server: &ServerSpec) -> Value {
    match &server.endpoint {
        ServerEndpoint::Stdio { command, args, env } => json!({
            "project_dir": server.project_dir,
            "command": redact::words(std::iter::once(command.as_str()).chain(args.iter().map(String::as_str))),
            "env": env.keys().collect::<Vec<_>>(),
        }),
        ServerEndpoint::Url { url, headers } => json!({
            "project_dir": server.project_dir,
            "url": redact::text(url),
            "headers": headers.keys().collect::<Vec<_>>(),
        }),
    }
}

/// Returns the plan as text. Writing to a string cannot fail.
pub(super) fn plan(plan: &ImportPlan) -> String {
    let mut out = String::new();
    if plan.files.is_empty() {
        return "no file of a known agent was found (Claude Code, Claude Desktop, Cursor, VS Code, Codex, Gemini CLI)\n"
            .to_owned();
    }
    for file in &plan.files {
        let _ = writeln!(out, "{}: {}", file.agent.name(), file.content.file.display());
        entries(plan, file, &mut out);
        if let Err(problem) = &file.after {
            let _ = writeln!(out, "  this file cannot be read: {}", problem.detail);
        }
        for change in &file.changes {
            let within = if change.path.len() > 1 {
                format!(", in {}", change.path[..change.path.len() - 1].join(" "))
            } else {
                String::new()
            };
            let _ = writeln!(out, "  these entries are removed{within}: {}", change.remove.join(", "));
            for (name, entry) in &change.insert {
                let _ = writeln!(out, "  they are replaced by:\n{}", indented(file, name, entry));
            }
            if change.insert.is_empty() {
                let _ = writeln!(out, "  the existing entry for Linchpin offers these servers");
            }
        }
        out.push('\n');
    }
    let changes = plan.files.iter().any(|file| !file.changes.is_empty());
    out.push_str(match changes {
        true => {
            "nothing was written; `linchpin import --apply` makes these changes and keeps a backup beside each file\n"
        }
        false => "nothing to do\n",
    });
    out
}

fn entries(plan: &ImportPlan, file: &FilePlan, out: &mut String) {
    if file.entries.is_empty() && file.after.is_ok() {
        out.push_str("  no servers\n");
    }
    for entry in &file.entries {
        let _ = match &entry.action {
            EntryAction::Declare(name, not_carried_over) => {
                let without = match not_carried_over.is_empty() {
                    true => String::new(),
                    false => format!("; not carried over: {}", not_carried_over.join(", ")),
                };
                let what = plan.servers.get(name).map(short).unwrap_or_default();
                writeln!(out, "  + {} becomes {name}: {what}{without}", entry.name)
            }
            EntryAction::Linchpin => writeln!(out, "  = {} is Linchpin already", entry.name),
            EntryAction::LeaveAlone(why) => writeln!(out, "  - {} is left alone: {why}", entry.name),
        };
    }
}

fn short(server: &ServerSpec) -> String {
    let with = |names: Vec<&String>| match names.is_empty() {
        true => String::new(),
        false => format!(" (with {})", names.into_iter().cloned().collect::<Vec<_>>().join(", ")),
    };
    match &server.endpoint {
        ServerEndpoint::Stdio { command, args, env } => {
            let words = redact::words(std::iter::once(command.as_str()).chain(args.iter().map(String::as_str)));
            let own = env.keys().filter(|name| *name != "PATH").collect();
            format!("{} in {}{}", words.join(" "), server.project_dir.display(), with(own))
        }
        ServerEndpoint::Url { url, headers } => format!("{}{}", redact::text(url), with(headers.keys().collect())),
    }
}

/// Returns the new entry as it will be written in the file, as far as it can be shown by itself.
fn indented(file: &FilePlan, name: &str, entry: &Value) -> String {
    let is_toml = file.content.real.extension().is_some_and(|extension| extension == "toml");
    let text = if is_toml {
        let path = vec!["mcp_servers".to_owned()];
        let one = ObjectEdit { path, remove: Vec::new(), insert: vec![(name.to_owned(), entry.clone())] };
        let text = edit_toml::toml("[mcp_servers]\n", &[one]).unwrap_or_default();
        text.split_once("\n").map(|(_, rest)| rest.to_owned()).unwrap_or_default()
    } else {
        format!("{}: {entry:#}", Value::from(name))
    };
    text.trim().lines().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}

/// Returns what was done, as JSON.
pub(super) fn done(changed: &[ChangedFile], problems: &[Problem]) -> Value {
    json!({"changed": changed, "problems": problems})
}

/// Returns what was changed, as text.
pub(super) fn applied(plan: &ImportPlan, changed: &[ChangedFile]) -> String {
    if changed.is_empty() {
        return "nothing to do\n".to_owned();
    }
    let mut out = String::new();
    for ChangedFile { file, backup } in changed {
        let _ = writeln!(out, "changed {} (backup: {})", file.display(), backup.display());
    }
    let names: Vec<&str> = plan.servers.keys().map(String::as_str).collect();
    let _ = writeln!(out, "declared; these servers are started when they are first used: {}", names.join(", "));
    out.push_str("restart your agents once; linchpin import --undo restores the files\n");
    out
}

/// Returns what was restored, as text.
pub(super) fn undone(changed: &[ChangedFile]) -> String {
    if changed.is_empty() {
        return "nothing to undo\n".to_owned();
    }
    let mut out = String::new();
    for ChangedFile { file, .. } in changed {
        let _ = writeln!(out, "{} has its own servers again", file.display());
    }
    out.push_str("running servers continue to run: linchpin status, linchpin stop NAME\n");
    out
}
