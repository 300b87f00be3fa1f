//! The servers of all kinds, each behind its own instance.

use anyhow::{Context, Result, ensure};
use linchpin_shared::process::{Identity, Signal};
use linchpin_tests::kit;
use linchpin_tests::lab::running::{Running, gone};
use linchpin_tests::lab::{Lab, free_port};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;

/// How a server is reached, and what starts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Its instance starts it and uses its pipes.
    Stdio,
    /// Its instance starts it, and it listens.
    Child,
    /// It listens, and another program starts it.
    Url,
}

/// A server.
pub(crate) struct Backend {
    /// For people.
    pub(crate) name: &'static str,
    /// Its instance.
    pub(crate) instance: &'static str,
    pub(crate) kind: Kind,
    tool: &'static str,
    arguments: Value,
    says: &'static str,
    /// The server process, if the lab starts it.
    program: Option<Program>,
}

struct Program {
    line: Vec<String>,
    port: u16,
    running: Running,
}

impl Program {
    fn start(lab: &Lab, line: &[String], port: u16) -> Result<Running> {
        let (program, arguments) = line.split_first().context("an empty command line")?;
        let mut command = lab.command(program);
        command.args(arguments).env("PORT", port.to_string());
        Running::start(command, lab.dir().join("out/url.log"))
    }
}

impl Backend {
    async fn start(
        lab: &Lab,
        kind: Kind,
        instance: &'static str,
        name: &'static str,
        line: Vec<String>,
    ) -> Result<Self> {
        let (tool, arguments, says) = match line.iter().any(|word| word.contains("everything")) {
            true => ("echo", json!({"message": "hello"}), "Echo: hello"),
            false => ("test_simple_text", json!({}), "This is a simple text response for testing."),
        };
        let mut backend = Self { name, instance, kind, tool, arguments, says, program: None };
        if kind == Kind::Stdio {
            lab.detached(instance, &line).await?;
            return Ok(backend);
        }
        let port = free_port()?;
        let (url, number) = (format!("http://127.0.0.1:{port}/mcp"), port.to_string());
        let mut verb = vec!["run", "--name", instance, "--detach", "--mcp-url", &url];
        if kind == Kind::Child {
            verb.extend(["--port", &number, "--"]);
            verb.extend(line.iter().map(String::as_str));
        } else {
            let running = Program::start(lab, &line, port)?;
            backend.program = Some(Program { line: line.clone(), port, running });
        }
        lab.verb(verb).await?.exits(0)?;
        Ok(backend)
    }

    fn calling(self, tool: &'static str, arguments: Value, says: &'static str) -> Self {
        Self { tool, arguments, says, ..self }
    }

    /// The tool that is called, as clients see it.
    pub(crate) fn tool(&self) -> String {
        format!("{}__{}", self.instance, self.tool)
    }

    /// Whether it counts.
    pub(crate) fn counts(&self) -> bool {
        self.tool == "count"
    }

    /// The arguments of a call, and the expected text.
    pub(crate) fn exchange(&self, word: &str, ledger: &str) -> (Value, String) {
        if self.counts() {
            return (json!({"word": word, "ledger": ledger}), word.to_owned());
        }
        (self.arguments.clone(), self.says.to_owned())
    }

    /// The identity of its process.
    pub(crate) async fn process(&self, lab: &Lab) -> Result<Identity> {
        if let Some(program) = &self.program {
            return Ok(program.running.identity().clone());
        }
        let status = lab.usable(self.instance).await?;
        let pid = status["processes"][0]["pid"].as_u64().with_context(|| format!("no process in {status}"))?;
        Ok(Identity::of(u32::try_from(pid)?)?)
    }

    /// Ends its process and lets it be started again.
    pub(crate) async fn restart(&mut self, lab: &Lab, signal: Signal) -> Result<()> {
        let before = self.process(lab).await?;
        ensure!(before.signal(signal)?, "{} had ended", self.name);
        if let Some(program) = &mut self.program {
            program.running.exit(Duration::from_secs(10)).await?;
            program.running = Program::start(lab, &program.line, program.port)?;
            return Ok(());
        }
        gone(&before, Duration::from_secs(10)).await.with_context(|| self.name)
    }

    /// Ends what the lab itself started.
    pub(crate) async fn end(mut self) -> Result<()> {
        match &mut self.program {
            Some(program) => program.running.kill_9().await,
            None => Ok(()),
        }
    }
}

/// The file that says which more tools the counting server on stdio has.
pub(crate) fn tools_file(lab: &Lab) -> PathBuf {
    lab.dir().join("tools")
}

/// All servers.
pub(crate) async fn started(lab: &Lab) -> Result<Vec<Backend>> {
    let files = lab.project("files")?;
    std::fs::write(files.join("note"), "")?;
    let (list, tools) = (json!({"path": files}), tools_file(lab));
    let (everything, listening) = (kit::everything()?, kit::everything_http()?);
    let (suite, suite_http) = (kit::conformance_server("stdio")?, kit::conformance_server("http")?);
    let (count, count_http) = (kit::counting("stdio", &tools)?, kit::counting("http", &lab.dir().join("no-tools"))?);
    use Kind::{Child, Stdio, Url};
    let started = |kind, instance, name, line| Backend::start(lab, kind, instance, name, line);
    let all = vec![
        started(Stdio, "count", "counting, stdio", count).await?.calling("count", json!({}), ""),
        started(Child, "count-web", "counting, HTTP", count_http).await?.calling("count", json!({}), ""),
        started(Stdio, "all", "server-everything, stdio", everything).await?,
        started(Child, "all-web", "server-everything, HTTP, started by us", listening.clone()).await?,
        started(Url, "all-url", "server-everything, HTTP, started by others", listening).await?,
        started(Stdio, "memory", "server-memory, stdio", kit::memory()?).await?.calling(
            "read_graph",
            json!({}),
            "entities",
        ),
        started(Stdio, "files", "server-filesystem, stdio", kit::filesystem(&files)?).await?.calling(
            "list_directory",
            list,
            "note",
        ),
        started(Stdio, "suite", "rmcp (both eras), stdio", suite).await?,
        started(Child, "suite-web", "rmcp (both eras), HTTP", suite_http).await?,
    ];
    for backend in &all {
        lab.usable(backend.instance).await?;
    }
    Ok(all)
}
