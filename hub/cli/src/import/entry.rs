//! What one entry of an agent's file is.
//!
//! Owns [`Meaning`] and the rules by which an entry becomes a server, is Linchpin already, or is left alone. Invariant: an
//! entry becomes a server only if Linchpin does everything with it that the agent does; what it would lose is a reason to
//! leave it, or is told. Never: starts or asks anything.

use super::agents::{Agent, Site};
use super::vars::{Vars, env_file};
use linchpin_shared::declared::How;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What an entry is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Meaning {
    /// A server that Linchpin can run.
    Server {
        /// How it is reached.
        how: How,
        /// The directory that it belongs to.
        dir: PathBuf,
        /// What the agent does with it that Linchpin does not.
        lost: Vec<String>,
    },
    /// Linchpin itself.
    Linchpin,
    /// Left alone, for this reason.
    Left(String),
}

/// What is known beside the entry.
pub(super) struct Around<'a> {
    pub(super) agent: Agent,
    pub(super) site: &'a Site,
    pub(super) vars: &'a Vars,
    /// Servers that the agent does not use, by their names there.
    pub(super) disabled: &'a [String],
}

/// Fields by which an agent logs in itself.
const LOGIN: [&str; 7] =
    ["oauth", "auth", "authProviderType", "headersHelper", "scopes", "oauth_resource", "targetAudience"];

/// Fields that say which tools the agent offers.
const TOOLS: [&str; 6] = ["includeTools", "excludeTools", "enabled_tools", "disabled_tools", "tools", "disabledTools"];

/// Fields that change how it is started in a way that Linchpin does not know.
const STRANGE: [&str; 4] = ["sandboxEnabled", "sandbox", "experimental_environment", "tcp"];

/// Fields that mean nothing to Linchpin, or what it does anyway.
const FINE: [&str; 22] = [
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

/// Reads an entry.
pub(super) fn read(name: &str, entry: &Value, around: &Around<'_>) -> Meaning {
    let Some(fields) = entry.as_object() else { return Meaning::Left("it is not an object".to_owned()) };
    if is_linchpin(fields) {
        return Meaning::Linchpin;
    }
    server(name, fields, around).unwrap_or_else(Meaning::Left)
}

/// Whether it is `linchpin mcp`, or the hub's address.
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

fn server(name: &str, fields: &Map<String, Value>, around: &Around<'_>) -> Result<Meaning, String> {
    let is = |key: &str, what: bool| fields.get(key) == Some(&Value::Bool(what));
    if is("disabled", true) || is("enabled", false) || around.disabled.iter().any(|disabled| disabled == name) {
        return Err("it is disabled".to_owned());
    }
    let set = |key: &&&str| fields.get(**key).is_some_and(|value| *value != Value::Bool(false) && !is_empty(value));
    if let Some(key) = LOGIN.iter().find(set) {
        return Err(format!("the agent logs in for it ({key}), which only the agent can do"));
    }
    if let Some(key) = TOOLS.iter().find(set) {
        return Err(format!("the agent treats its tools one by one ({key}), which one entry for all cannot do"));
    }
    if let Some(key) = STRANGE.iter().find(set) {
        return Err(format!("the agent starts it in a way that Linchpin does not know ({key})"));
    }
    let reader = Reader { fields, around };
    let url = ["url", "httpUrl", "serverUrl"].iter().find_map(|key| Some((*key, fields.get(*key)?.as_str()?)));
    let how = match (fields.get("command").and_then(Value::as_str), url) {
        (Some(command), None) => reader.stdio(command)?,
        (None, Some((key, url))) => reader.url(key, url)?,
        (None, None) => return Err("it has neither a command nor a URL".to_owned()),
        (Some(_), Some(_)) => return Err("it has both a command and a URL".to_owned()),
    };
    let lost = fields.keys().filter(|key| !FINE.contains(&key.as_str()) && !is_empty(&fields[*key])).cloned().collect();
    Ok(Meaning::Server { how, dir: reader.dir()?, lost })
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(all) => all.is_empty(),
        Value::Object(all) => all.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

struct Reader<'a> {
    fields: &'a Map<String, Value>,
    around: &'a Around<'a>,
}

impl Reader<'_> {
    fn resolve(&self, text: &str) -> Result<String, String> {
        self.around.vars.resolve(text, self.around.agent.dialect(), self.around.site.project.as_deref())
    }

    fn stdio(&self, command: &str) -> Result<How, String> {
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
            word.as_str().map(|word| self.resolve(word)).unwrap_or(Err("args has what is no text".to_owned()))
        };
        let args = words.iter().map(word).collect::<Result<_, _>>()?;
        let mut env = self.env_file()?;
        env.extend(self.map("env")?);
        env.extend(self.passed());
        // An agent in a terminal finds its programs there, and the hub may have been started elsewhere.
        if let Some(path) = self.around.vars.env.get("PATH").filter(|_| !env.contains_key("PATH")) {
            env.insert("PATH".to_owned(), path.clone());
        }
        Ok(How::Stdio { command: self.resolve(command)?, args, env })
    }

    fn url(&self, key: &str, url: &str) -> Result<How, String> {
        let kind = self.fields.get("type").or_else(|| self.fields.get("transport")).and_then(Value::as_str);
        match kind {
            Some("http" | "streamable-http" | "streamableHttp" | "streamable_http") => {}
            Some("sse") => return Err("it speaks SSE, the transport of 2024, which Linchpin does not".to_owned()),
            Some(kind) => return Err(format!("it speaks {kind:?}, which Linchpin does not")),
            None if self.around.agent == Agent::Gemini && key == "url" => {
                return Err("it speaks SSE (Gemini CLI takes `url` for that), which Linchpin does not".to_owned());
            }
            None => {}
        }
        let url = self.resolve(url)?;
        if url.trim_end_matches('/').ends_with("/sse") {
            return Err("it speaks SSE, as its URL says, which Linchpin does not".to_owned());
        }
        if !url.starts_with("http://") && !url.starts_with("https://") {
            return Err("its URL is neither http nor https".to_owned());
        }
        if url.split_once("://").is_some_and(|(_, rest)| rest.split('/').next().is_some_and(|at| at.contains('@'))) {
            return Err("its URL has a user in it".to_owned());
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
            return Err("it has no header to log in with, so it may want a login that only the agent can do".to_owned());
        }
        Ok(How::Url { url, headers })
    }

    fn variable(&self, name: &str) -> Result<String, String> {
        self.around.vars.env.get(name).cloned().ok_or_else(|| format!("the variable {name} is not set here"))
    }

    /// A map of texts.
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
                    return Err(format!("{name} in {key} is not a text"));
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

    /// Variables that Codex passes on by name, those that are set.
    fn passed(&self) -> BTreeMap<String, String> {
        let names = self.fields.get("env_vars").and_then(Value::as_array).into_iter().flatten();
        let names = names.filter_map(|name| name.as_str().or_else(|| name.get("name")?.as_str()));
        names.filter_map(|name| Some((name.to_owned(), self.around.vars.env.get(name)?.clone()))).collect()
    }

    /// The directory that the server belongs to.
    fn dir(&self) -> Result<PathBuf, String> {
        let base = self.around.site.project.as_deref();
        let Some(cwd) = self.fields.get("cwd").and_then(Value::as_str) else {
            return Ok(base.unwrap_or(&self.around.vars.home).to_owned());
        };
        let cwd = PathBuf::from(self.resolve(cwd)?);
        match base {
            _ if cwd.is_absolute() => Ok(cwd),
            Some(project) => Ok(project.join(cwd)),
            None => Err("its directory is relative to wherever the agent happens to be".to_owned()),
        }
    }
}
