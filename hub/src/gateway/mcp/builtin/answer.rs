//! What status, explain, logs and restart come to.
//!
//! Owns their arguments and the form of every result: text to read, and the same as structured content. An error is a
//! result too, with the problem's text and steps, because that is what an agent can act on.
//! Invariant: an instance that the connection does not see is refused, with the rule that hides it.
//! Never: waits for a server.

use super::{BuiltinTool, HubApi};
use crate::gateway::mcp::catalog::scope::Scope;
use crate::render::{explain::explain, status};
use linchpin_shared::problem::{Code, Problem};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;

/// What the text of a log is cut to, from its end: more than an agent reads, less than chokes it.
const MAX_LOG: usize = 256 << 10;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfStatus {
    instance: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfExplain {
    instance: String,
    lines: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfLogs {
    instance: String,
    process: Option<String>,
    lines: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfRestart {
    instance: String,
    process: Option<String>,
}

/// Reads a tool's arguments.
pub(crate) fn arguments<T: DeserializeOwned>(json: &str) -> Result<T, Problem> {
    serde_json::from_str(json).map_err(|error| {
        Problem::new(Code::BadRequest, format!("the arguments cannot be used: {error}"))
            .next("send what the tool's inputSchema asks for")
    })
}

/// The result of a call: what it came to, or the problem, as a tool tells it.
pub(crate) fn result(answer: Result<(String, Value), Problem>) -> String {
    let (text, structured, failed) = match answer {
        Ok((text, structured)) => (text, structured, false),
        Err(problem) => (problem.to_string(), json!(problem), true),
    };
    json!({"content": [{"type": "text", "text": text}], "structuredContent": structured, "isError": failed}).to_string()
}

/// What a tool comes to that tells of instances.
pub(crate) async fn of(
    own: BuiltinTool,
    facts: Arc<dyn HubApi>,
    scope: &Scope,
    json: &str,
) -> Result<(String, Value), Problem> {
    match own {
        BuiltinTool::Status => match arguments::<OfStatus>(json)?.instance {
            None => {
                let all = everything(&*facts, scope);
                Ok((status::overview(&all), all))
            }
            Some(name) => instance(&*facts, scope, &name).map(|one| (status::instance(&one), one)),
        },
        BuiltinTool::Explain => {
            let OfExplain { instance: name, lines } = arguments(json)?;
            instance(&*facts, scope, &name)?;
            let story = facts.link_history(name).await?;
            Ok((explain(&story, lines.unwrap_or(20)), story))
        }
        BuiltinTool::Logs => {
            let OfLogs { instance: name, process, lines } = arguments(json)?;
            instance(&*facts, scope, &name)?;
            let text = facts.logs(name.clone(), process, lines.unwrap_or(100).min(1000)).await?;
            let text = last_lines(&text);
            Ok((text.to_owned(), json!({"instance": name, "lines": text.lines().collect::<Vec<_>>()})))
        }
        BuiltinTool::Restart => {
            let OfRestart { instance: name, process } = arguments(json)?;
            instance(&*facts, scope, &name)?;
            let restarting = facts.restart(name.clone(), process).await?;
            let text = format!("restarting {} of {name}; {0} is reachable again in a moment", restarting.join(", "));
            Ok((text, json!({"instance": name, "restarting": restarting})))
        }
        BuiltinTool::Search | BuiltinTool::Describe | BuiltinTool::Call => {
            Err(Problem::new(Code::Internal, "this tool is about tools").next("report it"))
        }
    }
}

/// The status, of what the connection sees.
pub(crate) fn everything(facts: &dyn HubApi, scope: &Scope) -> Value {
    let mut all = facts.status();
    if let Some(instances) = all["instances"].as_array_mut() {
        instances.retain(|instance| hidden(scope, instance).is_none());
    }
    all
}

/// The instance of this name, if the connection sees it.
pub(crate) fn instance(facts: &dyn HubApi, scope: &Scope, name: &str) -> Result<Value, Problem> {
    let found = facts.instance(name);
    let rule = match &found {
        Ok(instance) => hidden(scope, instance),
        Err(_) => scope.filter.hides(&[name], Path::new("/")),
    };
    match rule {
        None => found,
        Some(rule) => {
            let problem = Problem::new(Code::InstanceNotFound, format!("the instance {name:?} is hidden: {rule}"));
            Err(problem.next("linchpin__status shows what this connection sees"))
        }
    }
}

fn hidden(scope: &Scope, instance: &Value) -> Option<String> {
    let text = |key: &str| instance[key].as_str().unwrap_or_default();
    scope.filter.hides(&[text("name")], Path::new(text("project_dir")))
}

/// The end of a text, in whole lines.
fn last_lines(text: &str) -> &str {
    let Some(over) = text.len().checked_sub(MAX_LOG).filter(|over| *over > 0) else { return text };
    let from = text.bytes().skip(over).position(|byte| byte == b'\n').map_or(text.len(), |at| over + at + 1);
    text.get(from..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_a_result_with_the_steps() {
        let problem = Problem::new(Code::InstanceNotFound, "there is no x").next("linchpin status");
        let said: Value = serde_json::from_str(&result(Err(problem))).unwrap();
        assert_eq!(
            (&said["isError"], &said["structuredContent"]["code"]),
            (&json!(true), &json!("instance_not_found"))
        );
        let text = said["content"][0]["text"].as_str().unwrap();
        assert!(text.contains("there is no x") && text.contains("1. linchpin status"), "{text}");
        assert!(arguments::<OfRestart>(r#"{"instance":"a","command":"x"}"#).is_err(), "what it does not have");
    }

    #[test]
    fn a_long_log_is_cut_at_a_line() {
        let text = format!("é{}\nlast\n", "x".repeat(MAX_LOG));
        assert_eq!(last_lines(&text), "last\n");
        assert_eq!(last_lines("a\nb\n"), "a\nb\n");
    }
}
