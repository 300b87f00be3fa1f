//! The record: an instance's JSON file in the registry, format 1 (see "Registry" in ARCHITECTURE.md).
//!
//! Owns the fields and their check. Invariant: a record that was read and is written again keeps every field it had,
//! known or not; a record of a newer format is read for what is known and never rewritten.
//! Never: carries environment or arguments, or says anything about being alive. The lease says that.

use crate::problem::{Code, Problem};
use crate::process::Identity;
use crate::protocol::vitals::Transport;
use crate::redact;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// The format that this version writes.
pub const FORMAT: u32 = 1;

/// The largest record that is read, in bytes.
pub const MAX_BYTES: u64 = 1 << 20;

/// The namespace of instance ids: UUIDv5 of a URL in the DNS-free space of this project.
const NAMESPACE: Uuid = Uuid::from_u128(0x6c69_6e63_6870_696e_8d5e_0001_0000_0001);

/// An instance as it makes itself known.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The format, see [`FORMAT`].
    pub format: u32,
    /// The same over restarts: [`instance_id`].
    pub id: Uuid,
    /// Its name, see [`crate::name`].
    pub name: String,
    /// Which life of it: a new UUIDv7 at each start.
    pub generation: Uuid,
    /// Where it listens, for example `http://127.0.0.1:41873`.
    pub endpoint: String,
    /// What it speaks there.
    pub protocol: Protocol,
    /// The process that holds the lease.
    pub process: Identity,
    /// The directory of the project.
    pub project_dir: PathBuf,
    /// The version of the program.
    pub version: String,
    /// 32 random bytes, base64, that prove who is who in the hello.
    pub secret: String,
    /// HTTP services that it offers.
    #[serde(default)]
    pub services: Vec<Service>,
    /// MCP servers that it fronts.
    #[serde(default)]
    pub servers: Vec<Server>,
    /// Anything the owner wants to say.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// When it registered.
    pub registered_at: Timestamp,
    /// Fields of other formats.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// Without the secret, which never goes to a log, and without what may be anything.
impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, id, generation, endpoint, process, .. } = self;
        f.debug_struct("Record")
            .field("name", name)
            .field("id", id)
            .field("generation", generation)
            .field("endpoint", endpoint)
            .field("process", process)
            .finish_non_exhaustive()
    }
}

/// What an instance speaks at its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Protocol {
    /// HTTP/2 without TLS and the messages of [`crate::protocol`]: ours.
    #[serde(rename = "h2c")]
    H2c,
    /// HTTP/1.1: a foreign program.
    #[serde(rename = "http/1.1")]
    Http1,
}

/// An HTTP service of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Its name, unique in the instance.
    pub name: String,
    /// Where it listens.
    pub url: String,
}

/// An MCP server of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// Its name, unique in the instance.
    pub name: String,
    /// How the instance reaches it.
    pub transport: Transport,
    /// Where it is, for a foreign program that speaks MCP over Streamable HTTP: a path, or an address under the
    /// record's endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

/// The id of the instance of this name in this project: a UUIDv5 (RFC 9562) of both.
#[must_use]
pub fn instance_id(project_dir: &Path, name: &str) -> Uuid {
    use std::os::unix::ffi::OsStrExt;
    let mut bytes = project_dir.as_os_str().as_bytes().to_vec();
    bytes.push(0);
    bytes.extend_from_slice(name.as_bytes());
    Uuid::new_v5(&NAMESPACE, &bytes)
}

impl Record {
    /// Reads a record.
    ///
    /// # Errors
    /// [`Code::BadRecord`] with the reason: not JSON, a field missing or of another type, a bad name or endpoint, or an
    /// endpoint that is not on this machine.
    pub fn parse(bytes: &[u8]) -> Result<Self, Problem> {
        let bad = |why: String| Problem::new(Code::BadRecord, why);
        let mut input = serde_json::Deserializer::from_slice(bytes);
        let record: Self = serde_path_to_error::deserialize(&mut input).map_err(|error| bad(without_secret(&error)))?;
        input.end().map_err(|error| bad(error.to_string()))?;
        crate::name::check(&record.name)?;
        record.address()?;
        Ok(record)
    }

    /// The path of this MCP server of a foreign program; `None` when the record tells none under its endpoint.
    #[must_use]
    pub fn server_path(&self, server: &str) -> Option<&str> {
        let url = self.servers.iter().find(|known| known.name == server)?.url.as_deref()?;
        let path = url.strip_prefix(self.endpoint.trim_end_matches('/')).unwrap_or(url);
        path.starts_with('/').then_some(path)
    }

    /// The socket address of the endpoint, which is `http://` and a loopback address with a port.
    ///
    /// # Errors
    /// [`Code::BadRecord`] when it is something else.
    pub fn address(&self) -> Result<std::net::SocketAddr, Problem> {
        self.endpoint
            .strip_prefix("http://")
            .and_then(|rest| rest.trim_end_matches('/').parse::<std::net::SocketAddr>().ok())
            .filter(|address| address.ip().is_loopback() && address.port() != 0)
            .ok_or_else(|| {
                Problem::new(Code::BadRecord, "endpoint is not http:// with a loopback address and a port")
                    .seen("endpoint", self.endpoint.clone())
            })
    }
}

/// What is wrong, without the value that is: it may be the secret, in its own place or in a wrong one.
fn without_secret(error: &serde_path_to_error::Error<serde_json::Error>) -> String {
    let (text, path) = (error.inner().to_string(), error.path().to_string());
    let text = match text.split_once("invalid type: ").or_else(|| text.split_once("invalid value: ")) {
        Some((_, rest)) => format!("expected {}", rest.rsplit_once("expected ").map_or(rest, |(_, what)| what)),
        None => redact::text(&text),
    };
    if path == "." { text } else { format!("{text} (in {path})") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    pub(crate) fn sample() -> Value {
        json!({
            "format": 1, "id": Uuid::nil(), "name": "shop", "generation": Uuid::max(),
            "endpoint": "http://127.0.0.1:41873", "protocol": "h2c",
            "process": {"pid": 4242, "start_ticks": 889_922, "boot_id": "b", "executable": "/bin/linchpin"},
            "project_dir": "/shop", "version": "0.1.0", "secret": "s",
            "services": [{"name": "web", "url": "http://127.0.0.1:5173"}],
            "servers": [{"name": "files", "transport": "stdio"}],
            "labels": {}, "registered_at": "2026-11-20T10:00:00Z"
        })
    }

    #[test]
    fn unknown_fields_survive_a_rewrite() {
        let mut json = sample();
        json["weather"] = json!({"sky": [1, 2.0]});
        let record = Record::parse(json.to_string().as_bytes()).unwrap();
        assert_eq!(serde_json::to_value(&record).unwrap(), json);
    }

    #[test]
    fn a_server_of_a_foreign_program_has_a_path_under_its_endpoint() {
        let mut json = sample();
        for (url, path) in [
            (json!("/mcp"), Some("/mcp")),
            (json!("http://127.0.0.1:41873/a/mcp?x=1"), Some("/a/mcp?x=1")),
            (json!("http://127.0.0.1:41874/mcp"), None),
            (json!("http://127.0.0.1:418730/mcp"), None),
            (json!("http://evil.example/mcp"), None),
            (Value::Null, None),
        ] {
            json["servers"] = json!([{"name": "files", "transport": "http", "url": url}]);
            assert_eq!(Record::parse(json.to_string().as_bytes()).unwrap().server_path("files"), path, "{url}");
        }
        assert_eq!(Record::parse(json.to_string().as_bytes()).unwrap().server_path("other"), None);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (field, value, word) in [
            ("name", json!("Not A Name"), "not a valid name"),
            ("endpoint", json!("http://10.0.0.1:80"), "loopback"),
            ("endpoint", json!("http://127.0.0.1:0"), "port"),
            ("process", json!({"pid": "x"}), "process.pid"),
        ] {
            let mut json = sample();
            json[field] = value;
            let problem = Record::parse(json.to_string().as_bytes()).unwrap_err();
            assert!(problem.to_string().contains(word), "{problem}");
        }
        assert!(Record::parse(b"{\"format\":1} x").is_err());
        assert!(Record::parse(b"").is_err());
    }

    /// Fault 68: a secret in an error.
    #[test]
    fn neither_an_error_nor_a_debug_text_tells_a_secret() {
        for (field, value) in [("secret", json!(["hunter2"])), ("secret", json!(22222)), ("format", json!("hunter2"))] {
            let mut json = sample();
            json[field] = value;
            let problem = Record::parse(json.to_string().as_bytes()).unwrap_err();
            assert!(!problem.to_string().contains("hunter2") && !problem.to_string().contains("22222"), "{problem}");
            assert!(
                problem.detail.contains("expected ") && problem.detail.contains(&format!("(in {field})")),
                "{problem}"
            );
        }
        let mut json = sample();
        json["secret"] = json!("hunter2");
        json["labels"] = json!({"key": "hunter2"});
        let record = Record::parse(json.to_string().as_bytes()).unwrap();
        assert!(!format!("{record:?}").contains("hunter2") && format!("{record:?}").contains("shop"));
    }

    #[test]
    fn the_id_is_the_projects() {
        assert_eq!(instance_id(Path::new("/a"), "x"), instance_id(Path::new("/a"), "x"));
        assert_ne!(instance_id(Path::new("/a"), "x"), instance_id(Path::new("/a"), "y"));
        assert_ne!(instance_id(Path::new("/a"), "x"), instance_id(Path::new("/b"), "x"));
    }
}
