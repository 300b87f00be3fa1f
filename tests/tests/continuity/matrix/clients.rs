//! The clients, by hand and of real SDKs, each in one open session.

use super::faults::Fault;
use anyhow::{Context, Result, ensure};
use linchpin_tests::agent::driven::Driven;
use linchpin_tests::agent::http::Http;
use linchpin_tests::agent::stdio::Stdio;
use linchpin_tests::agent::{Agent, Reply};
use linchpin_tests::lab::Lab;
use serde_json::{Value, json};

/// The notification that the list of tools has changed.
const CHANGED: &str = "notifications/tools/list_changed";

/// The implementation of a client.
enum Wire {
    Http(Http),
    Shim(Stdio),
    Driven(Driven),
}

/// The end of a call.
pub(crate) enum End {
    /// Answered with this text.
    Answered(String),
    /// Failed with a problem that has this code.
    Problem(String, String),
    /// Failed with an error of the client itself.
    Broken(String),
}

impl End {
    pub(crate) fn text(&self) -> &str {
        match self {
            Self::Answered(text) | Self::Problem(_, text) | Self::Broken(text) => text,
        }
    }
}

/// A client in its session.
pub(crate) struct Client {
    pub(crate) name: &'static str,
    /// Whether it speaks to `linchpin mcp` instead of the hub.
    pub(crate) shim: bool,
    /// Whether it gets notifications of changes.
    hears: bool,
    /// Whether it subscribes without a session. After the death of the hub, it must subscribe again itself over HTTP;
    /// through the shim it gets one notification, because it may have missed something.
    pub(crate) modern: bool,
    /// Whether it resumes the stream of a call when its connection breaks.
    pub(crate) resumes: bool,
    wire: Wire,
    session: Option<String>,
    heard: usize,
}

/// Name, SDK (`raw`, `python`, or the version of TypeScript's), mode, and whether through the shim.
const CLIENTS: [(&str, &str, &str, bool); 14] = [
    ("by hand, HTTP", "raw", "legacy", false),
    ("by hand, `linchpin mcp`", "raw", "legacy", true),
    ("Python SDK (auto), HTTP", "python", "auto", false),
    ("Python SDK (legacy), HTTP", "python", "legacy", false),
    ("Python SDK (2026-07-28), HTTP", "python", "2026-07-28", false),
    ("Python SDK (legacy), `linchpin mcp`", "python", "legacy", true),
    ("Python SDK (auto), `linchpin mcp`", "python", "auto", true),
    ("TypeScript SDK 1, HTTP", "1", "legacy", false),
    ("TypeScript SDK 1, `linchpin mcp`", "1", "legacy", true),
    ("TypeScript SDK 2, HTTP", "2", "legacy", false),
    ("TypeScript SDK 2 (2026-07-28), HTTP", "2", "2026-07-28", false),
    ("TypeScript SDK 2, `linchpin mcp`", "2", "legacy", true),
    ("TypeScript SDK 2 (auto), `linchpin mcp`", "2", "auto", true),
    ("TypeScript SDK 2 (2026-07-28), `linchpin mcp`", "2", "2026-07-28", true),
];

/// All clients, each in its session.
pub(crate) async fn attached(lab: &Lab) -> Result<Vec<Client>> {
    futures_util::future::try_join_all(CLIENTS.map(|client| Client::open(lab, client))).await
}

impl Client {
    async fn open(lab: &Lab, (name, sdk, mode, shim): (&'static str, &str, &str, bool)) -> Result<Self> {
        let (url, binary) = (format!("{}/mcp", lab.hub_facts()?.url), lab.binary().display().to_string());
        let transport = if shim { vec!["stdio", &*binary, "mcp"] } else { vec!["http", &*url] };
        let (wire, modern) = match sdk {
            "raw" if shim => (Wire::Shim(lab.shim(&[]).await?), false),
            "raw" => (Wire::Http(lab.http("/mcp").await?), false),
            _ => {
                let opened = match sdk {
                    "python" => Driven::python(lab, mode, &transport).await,
                    version => Driven::typescript(lab, version, mode, &transport).await,
                };
                let (driven, hello) = opened.context(name)?;
                let modern = hello["protocolVersion"] == "2026-07-28";
                ensure!(modern == (mode != "legacy"), "{name} speaks {hello}");
                (Wire::Driven(driven), modern)
            }
        };
        // The client by hand opens no stream over HTTP.
        let hears = !matches!(wire, Wire::Http(_));
        let mut client = Self {
            name,
            shim,
            hears,
            modern,
            resumes: shim || (sdk != "raw" && !modern),
            wire,
            session: None,
            heard: 0,
        };
        if let (Wire::Driven(driven), true) = (&mut client.wire, modern) {
            driven.result(&json!({"do": "listen"})).await.context(name)?;
        }
        client.tools().await?;
        client.session = client.session_now();
        ensure!(client.session.is_some() != (shim || modern), "{name} is in {:?}", client.session);
        Ok(client)
    }

    /// The names of all tools, in order.
    pub(crate) async fn tools(&mut self) -> Result<Vec<String>> {
        let listed = match &mut self.wire {
            Wire::Http(agent) => agent.tools().await,
            Wire::Shim(agent) => agent.tools().await,
            Wire::Driven(driven) => {
                let tools = driven.result(&json!({"do": "list_tools"})).await;
                tools.and_then(|tools| serde_json::from_value::<Vec<Value>>(tools)?.iter().map(name_of).collect())
            }
        };
        listed.with_context(|| format!("{} lists", self.name))
    }

    /// Whether it has a call in flight during this fault. The TypeScript SDK 2 does not notice that the stream of a
    /// stateless call broke, and waits for a minute.
    pub(crate) fn may_call(&self, fault: Fault) -> bool {
        !(self.name.starts_with("TypeScript") && self.modern && !self.shim && fault == Fault::HubKilled)
    }

    /// Calls a tool.
    pub(crate) async fn call(&mut self, tool: &str, arguments: Value) -> End {
        let params = json!({"name": tool, "arguments": arguments});
        let reply = match &mut self.wire {
            Wire::Http(agent) => agent.request("tools/call", params).await,
            Wire::Shim(agent) => agent.request("tools/call", params).await,
            Wire::Driven(driven) => {
                let verb = json!({"do": "call_tool", "name": tool, "arguments": params["arguments"]});
                driven.perform(&verb).await.map(|answer| match answer.get("error") {
                    Some(error) => Reply::Error(error.clone()),
                    None => Reply::Result(answer["result"].clone()),
                })
            }
        };
        match reply {
            Ok(Reply::Result(result)) if result["isError"] != true => {
                End::Answered(result["content"][0]["text"].as_str().unwrap_or_default().to_owned())
            }
            Ok(Reply::Result(result)) => End::Broken(result.to_string()),
            Ok(Reply::Error(error)) => match error["data"]["code"].as_str() {
                Some(code) => End::Problem(code.to_owned(), error.to_string()),
                None => End::Broken(error.to_string()),
            },
            Err(error) => End::Broken(format!("{error:#}")),
        }
    }

    /// Checks that the session is the one that it began with.
    pub(crate) fn same_session(&self) -> Result<()> {
        let now = self.session_now();
        ensure!(now == self.session, "{} was in {:?} and is in {now:?}", self.name, self.session);
        Ok(())
    }

    fn session_now(&self) -> Option<String> {
        match &self.wire {
            Wire::Http(agent) => agent.session().map(str::to_owned),
            Wire::Shim(_) => None,
            Wire::Driven(driven) => driven.session().map(str::to_owned),
        }
    }

    /// How many notifications of a changed list of tools it got since the last check; `None` if it gets none.
    pub(crate) async fn told(&mut self) -> Result<Option<usize>> {
        let heard = match &mut self.wire {
            Wire::Http(_) => 0,
            Wire::Shim(agent) => agent.kept(CHANGED),
            Wire::Driven(driven) => {
                let heard = driven.result(&json!({"do": "heard"})).await?;
                usize::try_from(heard[CHANGED].as_u64().unwrap_or_default())?
            }
        };
        let before = std::mem::replace(&mut self.heard, heard);
        Ok(self.hears.then(|| heard - before))
    }

    /// Notes that it gets no notifications until it subscribes again.
    pub(crate) fn stops_receiving(&mut self) {
        self.hears = false;
    }

    /// Ends the session.
    pub(crate) async fn close(self) -> Result<()> {
        match self.wire {
            Wire::Http(agent) => agent.close().await,
            Wire::Shim(agent) => agent.close().await,
            Wire::Driven(driven) => driven.close().await,
        }
        .context(self.name)
    }
}

fn name_of(tool: &Value) -> Result<String> {
    Ok(tool["name"].as_str().context("a tool without a name")?.to_owned())
}
