//! `mcpdo`, which comes with the Inspector: a command line whose daemon keeps connections open, in both dialects, over
//! HTTP and through the shim.

use anyhow::{Context, Result, ensure};
use linchpin_tests::kit;
use linchpin_tests::lab::{Lab, leftovers, verb::Output};
use serde_json::Value;

/// The shell of a user; the daemon belongs to the lab.
struct Shell {
    lab: Lab,
    line: Vec<String>,
}

impl Shell {
    async fn runs(&self, arguments: &[&str]) -> Result<Value> {
        let (program, script) = self.line.split_first().context("an empty command line")?;
        let mut command = self.lab.command(program);
        command.args(script).args(["--format", "json"]).args(arguments);
        command.env("MCP_INSPECTOR_DAEMON_DIR", self.lab.dir().join("mcpdo"));
        command.env("MCP_INSPECTOR_DAEMON_TOKEN", "lab").env("MCP_INSPECTOR_SECRET_STORE", "memory");
        let output = Output::of(command).await?;
        output.json().map_err(|error| anyhow::anyhow!("{error:#}\n{}", self.lab.logs()))
    }

    async fn works(&self, connection: &str, word: &str) -> Result<()> {
        let of = |arguments: &[&'static str]| [&["--connection", connection], arguments].concat();
        let listed = self.runs(&of(&["tools/list"])).await?;
        ensure!(listed.to_string().contains("everything__echo"), "{connection}: {listed}");
        let message = format!("message:={word}");
        let answer = self.runs(&[&*of(&["tools/call", "everything__echo"]), &[&*message]].concat()).await?;
        ensure!(answer.to_string().contains(&format!("Echo: {word}")), "{connection}: {answer}");
        Ok(())
    }
}

#[tokio::test]
async fn mcpdo_connections_survive_the_hub() -> Result<()> {
    let shell = Shell { lab: Lab::new()?, line: kit::mcpdo()? };
    let lab = &shell.lab;
    lab.detached("everything", &kit::everything()?).await?;
    let _hub = lab.hub().await?;
    lab.usable("everything").await?;
    let facts = lab.hub_facts()?;
    let (url, token) = (format!("{}/mcp", facts.url), format!("Authorization: Bearer {}", facts.token));
    let binary = lab.binary().display().to_string();
    let inherited = [
        format!("LINCHPIN_HOME={}", lab.home().display()),
        format!("LINCHPIN_HUB_PORT={}", lab.port()),
        format!("{}={}", leftovers::VAR, lab.mark().value()),
    ];
    for era in ["legacy", "modern"] {
        let (http, shim) = (format!("http-{era}"), format!("shim-{era}"));
        shell.runs(&["connect", &url, "--era", era, "--connection", &http, "--header", &token]).await?;
        let mut connect = vec!["connect", "--era", era, "--connection", &*shim];
        // It passes on only the common part of its environment.
        connect.extend(inherited.iter().flat_map(|variable| ["-e", &**variable]));
        connect.extend(["--", &*binary, "mcp"]);
        shell.runs(&connect).await?;
    }
    let names = ["http-legacy", "http-modern", "shim-legacy", "shim-modern"];
    for name in names {
        shell.works(name, "first").await?;
    }
    lab.kill_hub().await?;
    lab.hub_answers(None).await?;
    for name in names {
        shell.works(name, "second").await?;
    }
    shell.runs(&["daemon", "stop"]).await?;
    shell.lab.finish().await
}
