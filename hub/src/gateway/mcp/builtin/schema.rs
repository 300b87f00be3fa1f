//! What the hub's own tools say of themselves.
//!
//! Owns their descriptions, input schemas and annotations. Invariant: they are the same for every client and at every
//! moment. Never: promises what a tool does not do.

use super::BuiltinTool;
use crate::gateway::mcp::catalog::filter::BUILTIN;
use serde_json::{Value, json};

/// The tool as it stands in a list.
pub(crate) fn of(own: BuiltinTool) -> Value {
    let (title, description) = words(own);
    let (properties, required) = input(own);
    let reads = own != BuiltinTool::Restart && own != BuiltinTool::Call;
    let mut annotations = json!({"title": title, "readOnlyHint": reads, "openWorldHint": own == BuiltinTool::Call});
    if !reads {
        annotations["destructiveHint"] = json!(true);
        annotations["idempotentHint"] = json!(false);
    }
    json!({
        "name": format!("{BUILTIN}__{}", own.name()),
        "title": title,
        "description": description,
        "inputSchema": {
            "type": "object", "properties": properties, "required": required, "additionalProperties": false,
        },
        "annotations": annotations,
    })
}

const fn words(own: BuiltinTool) -> (&'static str, &'static str) {
    match own {
        BuiltinTool::Status => (
            "Status of all instances",
            "Which instances (projects and MCP servers) run, whether they are connected, and what is wrong. Begin here \
             when a tool does not answer.",
        ),
        BuiltinTool::Explain => (
            "Explain an instance",
            "Why an instance is in the state it is in: the last failure with its causes, when the next try is, and the \
             last transitions.",
        ),
        BuiltinTool::Logs => ("Logs of an instance", "The last lines that the processes of an instance wrote."),
        BuiltinTool::Restart => (
            "Restart an instance's processes",
            "Restarts one process of an instance, or all of them. Work that they have under way is lost. Only what is \
             supervised already is restarted; nothing else is started or stopped.",
        ),
        BuiltinTool::Search => (
            "Search tools",
            "Finds tools of all instances by words of their names and descriptions, best first. Without a query it gives \
             all in order.",
        ),
        BuiltinTool::Describe => ("Describe a tool", "The whole description of one tool, with its input schema."),
        BuiltinTool::Call => {
            ("Call a tool", "Calls a tool that was found, with the arguments that its input schema asks for.")
        }
    }
}

fn input(own: BuiltinTool) -> (Value, Value) {
    let text = |about: &str| json!({"type": "string", "description": about});
    let count =
        |about: &str, most: u32| json!({"type": "integer", "minimum": 1, "maximum": most, "description": about});
    let (instance, process) =
        (text("The instance's name, as status shows it"), text("One process of it; all, if left out"));
    match own {
        BuiltinTool::Status => (json!({"instance": text("Only this instance")}), json!([])),
        BuiltinTool::Explain => {
            (json!({"instance": instance, "lines": count("How many transitions (20)", 200)}), json!(["instance"]))
        }
        BuiltinTool::Logs => (
            json!({"instance": instance, "process": process, "lines": count("How many lines from the end (100)", 1000)}),
            json!(["instance"]),
        ),
        BuiltinTool::Restart => (json!({"instance": instance, "process": process}), json!(["instance"])),
        BuiltinTool::Search => {
            (json!({"query": text("Words, in any order"), "limit": count("How many at most (10)", 100)}), json!([]))
        }
        BuiltinTool::Describe => (json!({"name": text("The tool's name, as search gives it")}), json!(["name"])),
        BuiltinTool::Call => (
            json!({
                "name": text("The tool's name, as search gives it"),
                "arguments": {"type": "object", "description": "Its arguments"},
            }),
            json!(["name"]),
        ),
    }
}
