//! What one entry of an agent's file is.
//!
//! [`EntryKind`] and the rules by which an entry becomes a server, is Linchpin itself, or is left alone. An entry
//! becomes a server only if Linchpin does everything with it that the agent does; what would be missing is a reason to
//! leave it alone, or is reported. No server is started or contacted.

use super::agents::{Agent, ServerTable};
use super::vars::{Variables, env_file};
use linchpin_hub::declared::ServerEndpoint;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What an entry is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum EntryKind {
    /// A server that Linchpin can run.
    Server {
        /// How the server is reached.
        how: ServerEndpoint,
        /// The directory that it belongs to.
        dir: PathBuf,
        /// The fields that the agent uses and Linchpin does not.
        not_carried_over: Vec<String>,
    },
    /// Linchpin itself.
    Linchpin,
    /// It is left alone, for this reason.
    LeaveAlone(String),
}

/// What is known in addition to the entry itself.
pub(super) struct EntryContext<'a> {
    pub(super) agent: Agent,
    pub(super) table: &'a ServerTable,
    pub(super) vars: &'a Variables,
    /// The names of the servers that the agent does not use.
    pub(super) disabled: &'a [String],
}

/// Fields with which an agent logs in by itself.
const LOGIN: [&str; 7] =
    ["oauth", "auth", "authProviderType", "headersHelper", "scopes", "oauth_resource", "targetAudience"];

/// Fields that select the tools that the agent offers.
const TOOLS: [&str; 6] = ["includeTools", "excludeTools", "enabled_tools", "disabled_tools", "tools", "disabledTools"];

/// Fields that change how the server is started, in a way that Linchpin does not support.
const UNSUPPORTED: [&str; 4] = ["sandboxEnabled", "sandbox", "experimental_environment", "tcp"];

/// Fields that Linchpin supports or can ignore.
const SUPPORTED: [&str; 22] = [
    "type",
    "transport",
    "command",
    "args",
    "env",
    "envFile",
    "env_vars",
    "cwd",
    "url",
    "httpUrl",
    "serverUrl",
    "headers",
    "http_headers",
    "env_http_headers",
    "bearer_token_env_var",
    "enabled",
    "disabled",
    "name",
    "description",
    "gallery",
    "version",
    "required",
];

/// Determines what an entry is.
pub(super) fn read(name: &str, entry: &Value, context: &EntryContext<'_>) -> EntryKind {
    let Some(fields) = entry.as_object() else { return EntryKind::LeaveAlone("it is not an object".to_owned()) };
    if is_linchpin(fields) {
        return EntryKind::Linchpin;
    }
    server(name, fields, context).unwrap_or_else(EntryKind::LeaveAlone)
}

/// Whether it is `linchpin mcp`, or the address of the hub.
fn is_linchpin(fields: &Map<String, Value>) -> bool {
    let text = |key: &str| fields.get(key).and_then(Value::as_str).unwrap_or_default();
    let program = Path::new(text("command")).file_name().and_then(|name| name.to_str());
    let first = fields.get("args").and_then(Value::as_array).and_then(|args| args.first()?.as_str());
    if program == Some("linchpin") && first == Some("mcp") {
        return true;
    }
    let hub = |url: &str| {
        let rest = url.strip_prefix("http://")?;
        let (host, path) = rest.split_once('/')?;
        let (host, port) = host.rsplit_once(':')?;
        let near = matches!(host, "127.0.0.1" | "localhost" | "[::1]");
        let path = path.split('?').next()?;
        let ours = path == "mcp" || (path.starts_with("i/") && path.ends_with("/mcp"));
        (near && ours && (7777..=7799).contains(&port.parse::<u16>().ok()?)).then_some(())
    };
    ["url", "httpUrl", "serverUrl"].iter().any(|key| hub(text(key)).is_some())
}

fn server(name: &str, fields: &Map<String, Value>, context: &EntryContext<'_>) -> Result<EntryKind, String> {
    let is = |key: &str, what: bool| fields.get(key) == Some(&Value::Bool(what));
    if is("disabled", true) || is("enabled", false) || context.disabled.iter().any(|disabled| disabled == name) {
        return Err("it is disabled".to_owned());
    }
    let set = |key: &&&str| fields.get(**key).is_some_and(|value| *value != Value::Bool(false) && !is_empty(value));
    if let Some(key) = LOGIN.iter().find(set) {
        return Err(format!("it needs a login ({key}) that only the agent can do"));
    }
    if let Some(key) = TOOLS.iter().find(set) {
        return Err(format!("the agent selects its tools one by one ({key}), which one common entry cannot do"));
    }
    if let Some(key) = UNSUPPORTED.iter().find(set) {
        return Err(format!("the agent starts it in a way that Linchpin does not support ({key})"));
    }
    let reader = EntryReader { fields, context };
    let url = ["url", "httpUrl", "serverUrl"].iter().find_map(|key| Some((*key, fields.get(*key)?.as_str()?)));
    let how = match (fields.get("command").and_then(Value::as_str), url) {
        (Some(command), None) => reader.stdio(command)?,
        (None, Some((key, url))) => reader.url(key, url)?,
        (None, None) => return Err("it has neither a command nor a URL".to_owned()),
        (Some(_), Some(_)) => return Err("it has both a command and a URL".to_owned()),
    };
    let not_carried_over =
        fields.keys().filter(|key| !SUPPORTED.contains(&key.as_str()) && !is_empty(&fields[*key])).cloned().collect();
    Ok(EntryKind::Server { how, dir: reader.dir()?, not_carried_over })
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(all) => all.is_empty(),
        Value::Object(all) => all.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

struct EntryReader<'a> {
    fields: &'a Map<String, Value>,
    context: &'a EntryContext<'a>,
}

impl EntryReader<'_> {
    fn resolve(&self, text: &str) -> Result<String, String> {
        self.context.vars.resolve(text, self.context.agent.variable_syntax(), self.context.table.project.as_deref())
    }

    fn stdio(&self, command: &str) -> Result<ServerEndpoint, String> {
        match self.fields.get("type").and_then(Value::as_str) {
            None | Some("stdio" | "local") => {}
            Some(kind) => return Err(format!("it has a command, but its type is {kind:?}")),
        }
        let words = match self.fields.get("args") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(words)) => words.clone(),
            Some(_) => return Err("args is not a list".to_owned()),
        };
        let word = |word: &Value| {
            word.as_str()
                .map(|word| self.resolve(word))
                .unwrap_or(Err("args has an element that is not a string".to_owned()))
        };
        let args = words.iter().map(word).collect::<Result<_, _>>()?;
        let mut env = self.env_file()?;
        env.extend(self.map("env")?);
        env.extend(self.passed());
        // The PATH of a terminal may have programs that the PATH of the hub does not have.
        if let Some(path) = self.context.vars.env.get("PATH").filter(|_| !env.contains_key("PATH")) {
            env.insert("PATH".to_owned(), path.clone());
        }
        Ok(ServerEndpoint::Stdio { command: self.resolve(command)?, args, env })
    }

    fn url(&self, key: &str, url: &str) -> Result<ServerEndpoint, String> {
        let kind = self.fields.get("type").or_else(|| self.fields.get("transport")).and_then(Value::as_str);
        match kind {
            Some("http" | "streamable-http" | "streamableHttp" | "streamable_http") => {}
            Some("sse") => return Err("it uses SSE, the transport of 2024, which Linchpin does not support".to_owned()),
            Some(kind) => return Err(format!("it uses the transport {kind:?}, which Linchpin does not support")),
            None if self.context.agent == Agent::Gemini && key == "url" => {
                return Err("it uses SSE (which is what `url` means for Gemini CLI), and Linchpin does not support it"
                    .to_owned());
            }
            None => {}
        }
        let url = self.resolve(url)?;
        if url.trim_end_matches('/').ends_with("/sse") {
            return Err("it uses SSE, judged by its URL, and Linchpin does not support it".to_owned());
        }
        if !url.starts_with("http://") && !url.starts_with("https://") {
            return Err("its URL is neither http nor https".to_owned());
        }
        if url.split_once("://").is_some_and(|(_, rest)| rest.split('/').next().is_some_and(|at| at.contains('@'))) {
            return Err("its URL contains a user name".to_owned());
        }
        let mut headers = self.map("headers")?;
        headers.extend(self.map("http_headers")?);
        for (header, variable) in self.map("env_http_headers")? {
            headers.insert(header, self.variable(&variable)?);
        }
        if let Some(variable) = self.fields.get("bearer_token_env_var").and_then(Value::as_str) {
            headers.insert("Authorization".to_owned(), format!("Bearer {}", self.variable(variable)?));
        }
        if url.starts_with("https://") && headers.is_empty() {
            return Err(
                "it has no header for authentication, so it may need a login that only the agent can do".to_owned()
            );
        }
        Ok(ServerEndpoint::Url { url, headers })
    }

    fn variable(&self, name: &str) -> Result<String, String> {
        self.context.vars.env.get(name).cloned().ok_or_else(|| format!("the variable {name} is not set here"))
    }

    /// Returns a map of strings.
    fn map(&self, key: &str) -> Result<BTreeMap<String, String>, String> {
        let map = match self.fields.get(key) {
            None | Some(Value::Null) => return Ok(BTreeMap::new()),
            Some(Value::Object(map)) => map,
            Some(_) => return Err(format!("{key} is not an object")),
        };
        let pair = |(name, value): (&String, &Value)| {
            let value = match value {
                Value::String(text) => self.resolve(text)?,
                Value::Number(number) => number.to_string(),
                Value::Bool(yes) => yes.to_string(),
                Value::Null | Value::Array(_) | Value::Object(_) => {
                    return Err(format!("{name} in {key} is not a string"));
                }
            };
            Ok((name.clone(), value))
        };
        map.iter().map(pair).collect()
    }

    fn env_file(&self) -> Result<BTreeMap<String, String>, String> {
        let Some(file) = self.fields.get("envFile").and_then(Value::as_str) else { return Ok(BTreeMap::new()) };
        let file = self.dir()?.join(self.resolve(file)?);
        let text = std::fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        env_file(&text).map_err(|why| format!("{}: {why}", file.display()))
    }

    /// Returns the variables that Codex passes on by name, if they are set.
    fn passed(&self) -> BTreeMap<String, String> {
        let names = self.fields.get("env_vars").and_then(Value::as_array).into_iter().flatten();
        let names = names.filter_map(|name| name.as_str().or_else(|| name.get("name")?.as_str()));
        names.filter_map(|name| Some((name.to_owned(), self.context.vars.env.get(name)?.clone()))).collect()
    }

    /// Returns the directory that the server belongs to.
    fn dir(&self) -> Result<PathBuf, String> {
        let base = self.context.table.project.as_deref();
        let Some(cwd) = self.fields.get("cwd").and_then(Value::as_str) else {
            return Ok(base.unwrap_or(&self.context.vars.home).to_owned());
        };
        let cwd = PathBuf::from(self.resolve(cwd)?);
        match base {
            _ if cwd.is_absolute() => Ok(cwd),
            Some(project) => Ok(project.join(cwd)),
            None => Err("its directory is relative to the directory in which the agent is started".to_owned()),
        }
    }
}
