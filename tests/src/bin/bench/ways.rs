//! The ways to call a tool of one server: directly and through the hub, over HTTP and over pipes.

use crate::pipe::Pipe;
use crate::stats::{Samples, ms, table};
use crate::web::{ECHO, Offer, Web};
use crate::wire::Wire;
use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use linchpin_shared::home::Home;
use linchpin_tests::kit;
use linchpin_tests::lab::running::Running;
use linchpin_tests::lab::{HubFacts, Lab};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// One caller of one way.
pub(crate) enum Caller {
    /// With its own connection.
    Wire(Box<Wire>),
    /// With the pipe that all callers share.
    Pipe(Arc<Pipe>),
}

impl Caller {
    /// Calls a tool and returns the size of the answer and the time.
    pub(crate) async fn call(&mut self, params: &Value) -> Result<(usize, Duration)> {
        let began = Instant::now();
        let answer = match self {
            Self::Wire(wire) => wire.raw("tools/call", params).await?,
            Self::Pipe(pipe) => pipe.rpc("tools/call", params).await?.into(),
        };
        let took = began.elapsed();
        let small = answer.len() < 1000;
        ensure!(!small || !String::from_utf8_lossy(&answer).contains("\"error\""), "{answer:?}");
        Ok((answer.len(), took))
    }
}

/// A way to call the tool.
pub(crate) struct Way {
    pub(crate) name: &'static str,
    pub(crate) tool: &'static str,
    /// Whether it goes through the hub.
    pub(crate) hub: bool,
    pub(crate) callers: Vec<Caller>,
    pub(crate) samples: Samples,
}

/// Two servers that answer at once, one behind a URL and one on stdio, and the processes that serve them.
pub(crate) struct Servers {
    web: Web,
    _instance: Running,
    facts: HubFacts,
}

impl Servers {
    /// Starts both and waits until the hub has them.
    pub(crate) async fn start(lab: &Lab) -> Result<Self> {
        let web = Web::start(&Home::at(lab.home()), "web", Offer { tools: 1, announces: true }).await?;
        let instance = lab.instance("pipe", &kit::echo("x")?)?;
        for name in ["web", "pipe"] {
            lab.usable(name).await?;
        }
        Ok(Self { web, _instance: instance, facts: lab.hub_facts()? })
    }

    /// Four ways with this many callers: each server directly and then through the hub.
    pub(crate) async fn ways(&self, lab: &Lab, callers: usize) -> Result<Vec<Way>> {
        let line = kit::echo("x")?;
        let (program, arguments) = line.split_first().context("an empty command line")?;
        let mut command = lab.command(program);
        command.args(arguments);
        let pipe = Pipe::open(command).await?;
        let hub = format!("{}/mcp", self.facts.url);
        let pipes = std::iter::repeat_with(|| Caller::Pipe(Arc::clone(&pipe))).take(callers).collect();
        Ok(vec![
            way("HTTP, directly", ECHO, false, wires(&self.web.url, "", callers).await?),
            way("HTTP, through the hub", "web__echo", true, wires(&hub, &self.facts.token, callers).await?),
            way("stdio, directly", "echo-x", false, pipes),
            way("stdio, through the hub", "pipe__echo-x", true, wires(&hub, &self.facts.token, callers).await?),
        ])
    }

    /// The hub's process.
    pub(crate) fn hub(&self) -> u32 {
        self.facts.pid
    }

    /// Unregisters the servers.
    pub(crate) fn leave(self) -> Result<()> {
        self.web.leave()
    }
}

fn way(name: &'static str, tool: &'static str, hub: bool, callers: Vec<Caller>) -> Way {
    Way { name, tool, hub, callers, samples: Samples::default() }
}

async fn wires(url: &str, token: &str, number: usize) -> Result<Vec<Caller>> {
    let open = (0..number).map(|_| async { Ok(Caller::Wire(Box::new(Wire::mcp(url, token).await?))) });
    try_join_all(open).await
}

/// The arguments of a call of this tool.
pub(crate) fn arguments(tool: &str, arguments: &Value) -> Value {
    json!({"name": tool, "arguments": arguments})
}

/// What the hub adds on the way with this name, compared with the direct way before it: median and p99.
pub(crate) fn added(ways: &[Way], name: &str) -> Result<[Duration; 2]> {
    let at = ways.iter().position(|way| way.name == name).context("no such way")?;
    let direct = &ways.get(at.wrapping_sub(1)).context("no direct way")?.samples;
    Ok([50, 99].map(|percent| ways[at].samples.percentile(percent).saturating_sub(direct.percentile(percent))))
}

/// A table of ways, each compared with the direct way before it; `more` has further columns.
pub(crate) fn shown(ways: &[Way], more: &[(&str, &dyn Fn(usize) -> String)]) -> String {
    let mut direct = Duration::ZERO;
    let lines = ways.iter().enumerate().map(|(at, way)| {
        let median = way.samples.median();
        if !way.hub {
            direct = median;
        }
        let ratio = median.as_secs_f64() / direct.as_secs_f64();
        let p99 = ms(way.samples.percentile(99));
        let mut line =
            vec![way.name.to_owned(), ms(median), p99, ms(median.saturating_sub(direct)), format!("{ratio:.2}")];
        line.extend(more.iter().map(|(_, column)| column(at)));
        line
    });
    let mut head = vec!["way", "median", "p99", "added median", "ratio"];
    head.extend(more.iter().map(|(name, _)| *name));
    table(&head, &lines.collect::<Vec<_>>())
}
