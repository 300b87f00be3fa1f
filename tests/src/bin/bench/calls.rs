//! One tool call to the same server in every way, in one run: directly, through the hub, through the shim.
//!
//! The ways take turns, one call each, so that other load on the machine affects all of them alike.

use crate::stats::{Samples, ms, table};
use crate::wire::Wire;
use anyhow::{Context, Result, ensure};
use linchpin_tests::agent::{Agent, stdio::Stdio};
use linchpin_tests::kit;
use linchpin_tests::lab::running::Running;
use linchpin_tests::lab::{HubFacts, Lab};
use serde_json::json;
use std::time::Duration;
use tokio::time::Instant;

/// The number of measured calls of each way, after the calls that warm up.
const CALLS: usize = 500;
const WARM_UP: usize = 50;

enum Channel {
    Pipe(Box<Stdio>),
    Wire(Box<Wire>),
}

/// A way to call one tool.
struct Way {
    name: &'static str,
    tool: &'static str,
    channel: Channel,
    samples: Samples,
}

impl Way {
    fn pipe(name: &'static str, tool: &'static str, agent: Stdio) -> Self {
        Self { name, tool, channel: Channel::Pipe(Box::new(agent)), samples: Samples::default() }
    }

    fn wire(name: &'static str, tool: &'static str, wire: Wire) -> Self {
        Self { name, tool, channel: Channel::Wire(Box::new(wire)), samples: Samples::default() }
    }

    async fn call(&mut self) -> Result<Duration> {
        let params = json!({"name": self.tool, "arguments": {"message": "x"}});
        let began = Instant::now();
        let result = match &mut self.channel {
            Channel::Pipe(agent) => agent.request("tools/call", params).await?.result()?,
            Channel::Wire(wire) => wire.rpc("tools/call", params).await?,
        };
        let took = began.elapsed();
        ensure!(result["isError"] != true, "{}: {result}", self.name);
        Ok(took)
    }
}

/// The median that the hub adds to a tool call over HTTP and through the shim, with a server that answers at once.
pub(crate) struct Added {
    pub(crate) http: Duration,
    pub(crate) shim: Duration,
}

/// Measures all servers and prints their tables.
pub(crate) async fn run(lab: &Lab, print: impl Fn(&str)) -> Result<Added> {
    let facts = lab.hub_facts()?;
    let _echo = lab.instance("echo", &kit::echo("x")?)?;
    let _everything = lab.instance("everything", &kit::everything()?)?;
    let (_web, web_url) = everything_over_http(lab).await?;
    let _front = lab.run_in_front("web", ["run", "--name", "web", "--mcp-url", &web_url, "--", "sleep", "1000"])?;
    for name in ["echo", "everything", "web"] {
        lab.usable(name).await?;
    }

    let small = measure(stdio_ways(lab, &facts, "echo", "echo-x", "echo__echo-x", &kit::echo("x")?).await?).await?;
    print(&format!("a server that answers at once, on stdio ({CALLS} calls each)\n{}", shown(&small)));
    let line = kit::everything()?;
    let large = measure(stdio_ways(lab, &facts, "everything", "echo", "everything__echo", &line).await?).await?;
    print(&format!("server-everything, on stdio\n{}", shown(&large)));
    let web = vec![
        Way::wire("direct HTTP", "echo", Wire::mcp(&web_url, "").await?),
        Way::wire("hub /i/web/mcp", "echo", Wire::mcp(&format!("{}/i/web/mcp", facts.url), &facts.token).await?),
    ];
    print(&format!("server-everything, on Streamable HTTP\n{}", shown(&measure(web).await?)));

    let added = |name: &str| -> Result<Duration> {
        let way = small.iter().find(|way| way.name == name).context("no such way")?;
        let direct = small.first().context("no direct way")?.samples.median();
        Ok(way.samples.median().saturating_sub(direct))
    };
    Ok(Added { http: added("hub /mcp")?, shim: added("shim linchpin mcp")? })
}

async fn stdio_ways(
    lab: &Lab,
    facts: &HubFacts,
    instance: &str,
    tool: &'static str,
    prefixed: &'static str,
    server: &[String],
) -> Result<Vec<Way>> {
    let (program, arguments) = server.split_first().context("an empty command line")?;
    let mut command = lab.command(program);
    command.args(arguments);
    let (direct, _) = Stdio::open(command, &lab.dir().join("out/direct.log")).await?;
    let own = format!("{}/i/{instance}/mcp", facts.url);
    Ok(vec![
        Way::pipe("direct stdio", tool, direct),
        Way::wire("hub /mcp", prefixed, Wire::mcp(&format!("{}/mcp", facts.url), &facts.token).await?),
        Way::wire("hub /i/NAME/mcp", tool, Wire::mcp(&own, &facts.token).await?),
        Way::pipe("shim linchpin mcp", prefixed, lab.shim(&[]).await?),
    ])
}

/// server-everything over Streamable HTTP on a free port. It listens on all interfaces, because it has no setting for
/// that.
async fn everything_over_http(lab: &Lab) -> Result<(Running, String)> {
    let port = std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
    let line = kit::everything_http()?;
    let (program, arguments) = line.split_first().context("an empty command line")?;
    let mut command = lab.command(program);
    command.args(arguments).env("PORT", port.to_string());
    let server = Running::start(command, lab.dir().join("out/web-server.log"))?;
    let url = format!("http://127.0.0.1:{port}/mcp");
    lab.wait_for("server-everything listens", async || Wire::connect(&url, "").await.map(|_| ())).await?;
    Ok((server, url))
}

async fn measure(mut ways: Vec<Way>) -> Result<Vec<Way>> {
    for round in 0..WARM_UP + CALLS {
        for way in &mut ways {
            let took = way.call().await.with_context(|| way.name)?;
            if round >= WARM_UP {
                way.samples.add(took);
            }
        }
    }
    Ok(ways)
}

fn shown(ways: &[Way]) -> String {
    let direct = ways.first().map(|way| way.samples.median()).unwrap_or_default();
    let line = |way: &Way| {
        let median = way.samples.median();
        let ratio = median.as_secs_f64() / direct.as_secs_f64();
        let added = ms(median.saturating_sub(direct));
        vec![way.name.to_owned(), ms(median), ms(way.samples.percentile(99)), added, format!("{ratio:.2}")]
    };
    let lines: Vec<Vec<String>> = ways.iter().map(line).collect();
    table(&["way", "median", "p99", "added median", "ratio"], &lines)
}
