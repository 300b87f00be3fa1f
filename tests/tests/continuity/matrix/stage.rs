//! One hub with all servers behind it and all clients in front of it, and the effect of faults on them.

use super::backends::{self, Backend};
use super::clients::{self, Client, End};
use super::faults::{Fault, inject};
use super::table::Table;
use anyhow::{Context, Result, bail, ensure};
use futures_util::future::{join_all, try_join_all};
use linchpin_tests::lab::Lab;
use linchpin_tests::lab::net::Net;
use linchpin_tests::lab::running::Running;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What the faults affect.
pub(crate) struct Stage {
    pub(crate) lab: Lab,
    pub(crate) hub: Running,
    pub(crate) backends: Vec<Backend>,
    pub(crate) net: Option<Net>,
}

/// The whole matrix.
pub(crate) struct Matrix {
    stage: Stage,
    clients: Vec<Client>,
    ledger: PathBuf,
    tools: Vec<String>,
}

/// Restarting four Node servers at once takes long on two cores.
const PATIENCE_MS: &str = "40000";

impl Matrix {
    pub(crate) async fn new(net: Option<Net>) -> Result<Self> {
        let lab = Lab::new()?.with("LINCHPIN_GATEWAY_WAIT_MS", PATIENCE_MS);
        let memory = lab.dir().join("memory.json").display().to_string();
        let lab = lab.with("MEMORY_FILE_PATH", &memory);
        let hub = lab.hub().await?;
        let backends = backends::started(&lab).await?;
        let clients = clients::attached(&lab).await.with_context(|| lab.logs())?;
        let ledger = lab.dir().join("ledger");
        let mut matrix = Self { stage: Stage { lab, hub, backends, net }, clients, ledger, tools: Vec::new() };
        matrix.tools = matrix.clients[0].tools().await?;
        for client in &mut matrix.clients {
            ensure!(client.tools().await? == matrix.tools, "{} sees a different list", client.name);
            client.told().await?;
        }
        Ok(matrix)
    }

    /// Starts a call of every client, causes the fault, and checks the calls, the lists and the sessions.
    pub(crate) async fn run_fault(&mut self, fault: Fault, table: &mut Table) -> Result<()> {
        let gate = self.stage.lab.dir().join(format!("gate-{fault:?}"));
        let callers = self.clients.iter_mut().enumerate().filter(|(_, client)| client.may_call(fault));
        let calls =
            callers.map(|(at, client)| UnderWay::of(at, client, fault, &self.ledger, &gate)).collect::<Vec<_>>();
        let words: Vec<_> = calls.iter().map(|call| call.word.clone()).collect();
        let injected = inject_during_calls(fault, &mut self.stage, &self.ledger, &words, &gate);
        let (ends, injected) = tokio::join!(join_all(calls.into_iter().map(UnderWay::end)), injected);
        injected.with_context(|| format!("{fault:?} could not be caused"))?;
        for (client, resumes, end) in &ends {
            if let Err(error) = becomes(fault, *resumes, end) {
                table.failed(client, fault, &format!("{error:#}"));
            }
        }
        if fault == Fault::OtherTools {
            self.tools_change().await?;
        }
        self.checked(fault, table).await;
        self.counted(&words)?;
        self.told(fault, table).await;
        Ok(())
    }

    /// Waits for the list in which the counting server has one more tool.
    async fn tools_change(&mut self) -> Result<()> {
        self.tools.push(String::from("count__another"));
        let due = sorted(self.tools.clone());
        let client = &mut self.clients[0];
        for _ in 0..200 {
            let tools = client.tools().await?;
            if sorted(tools.clone()) == due {
                self.tools = tools;
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bail!("the new tool is not listed\n{}", self.stage.lab.logs())
    }

    /// Checks that every client lists and calls every server in its first session.
    async fn checked(&mut self, fault: Fault, table: &mut Table) {
        let (backends, tools, ledger) = (&self.stage.backends, &self.tools, self.ledger.display().to_string());
        let (ledger, clients) = (&ledger, self.clients.iter_mut().enumerate());
        let checked = clients.map(async |(at, client)| {
            let mut done = Vec::new();
            let listed = listed(client, tools).await;
            for backend in backends {
                let (arguments, due) = backend.exchange(&format!("{fault:?}-next-{at}-{}", backend.instance), ledger);
                let called = match client.call(&backend.tool(), arguments).await {
                    End::Answered(text) if text.contains(&due) => client.same_session(),
                    other @ (End::Answered(_) | End::Problem(..) | End::Broken(_)) => {
                        Err(anyhow::anyhow!("{} was answered with {}", backend.tool(), other.text()))
                    }
                };
                done.push(called);
            }
            (client.name, listed, done)
        });
        for (client, listed, done) in join_all(checked).await {
            if let Err(error) = listed {
                table.failed(client, fault, &format!("{error:#}"));
            }
            for (backend, called) in backends.iter().zip(done) {
                table.note(client, backend.name, fault, fault.applies_to(backend.counts(), backend.kind), called);
            }
        }
    }

    /// Checks that every call was executed, and none twice.
    fn counted(&self, words: &[String]) -> Result<()> {
        let ledger = std::fs::read_to_string(&self.ledger)?;
        let mut lines: Vec<_> = ledger.lines().collect();
        lines.sort_unstable();
        let twice: Vec<_> = lines.windows(2).filter(|pair| pair[0] == pair[1]).collect();
        ensure!(twice.is_empty(), "executed twice: {twice:?}");
        ensure!(words.iter().all(|word| lines.binary_search(&word.as_str()).is_ok()), "a call was not executed");
        Ok(())
    }

    /// Checks that every subscribed client got one notification of a real change, and no other.
    async fn told(&mut self, fault: Fault, table: &mut Table) {
        let due = usize::from(fault == Fault::OtherTools);
        for client in &mut self.clients {
            let looks = usize::from(client.modern && client.shim && fault == Fault::HubKilled);
            match client.told().await {
                Ok(Some(times)) if times != due && times != looks => {
                    table.failed(client.name, fault, &format!("received {times} notices of a changed list, not {due}"));
                }
                Ok(Some(_) | None) => {}
                Err(error) => table.failed(client.name, fault, &format!("{error:#}")),
            }
            if fault == Fault::HubKilled && client.modern && !client.shim {
                client.stops_receiving();
            }
        }
    }

    pub(crate) async fn finish(self) -> Result<()> {
        let closed = try_join_all(self.clients.into_iter().map(Client::close)).await;
        closed.map_err(|error| anyhow::anyhow!("{error:#}\n{}", self.stage.lab.logs()))?;
        for backend in self.stage.backends {
            backend.end().await?;
        }
        self.stage.lab.finish().await
    }
}

/// A call of a counting tool that is executed at once and answered when the gate file exists.
struct UnderWay<'c> {
    client: &'c mut Client,
    word: String,
    tool: &'static str,
    arguments: Value,
}

impl<'c> UnderWay<'c> {
    fn of(at: usize, client: &'c mut Client, fault: Fault, ledger: &Path, gate: &Path) -> Self {
        let (word, tools) = (format!("{fault:?}-under-way-{at}"), ["count__count", "count-web__count"]);
        let arguments = json!({"word": word, "ledger": ledger, "until": gate});
        Self { client, word, tool: tools[at % 2], arguments }
    }

    async fn end(self) -> (&'static str, bool, End) {
        let end = self.client.call(self.tool, self.arguments).await;
        (self.client.name, self.client.resumes, end)
    }
}

/// Causes the fault when all calls are in flight, and then lets them be answered in any case.
async fn inject_during_calls(
    fault: Fault,
    stage: &mut Stage,
    ledger: &Path,
    words: &[String],
    gate: &Path,
) -> Result<()> {
    let under_way = stage.lab.wait_for("every call is under way", async || {
        let ledger = std::fs::read_to_string(ledger).unwrap_or_default();
        ensure!(words.iter().all(|word| ledger.lines().any(|line| line == word)), "{ledger}");
        Ok(())
    });
    let injected = match under_way.await {
        Ok(()) => {
            if fault == Fault::HubKilled {
                // After a second the client has a stream for its call, which it can resume.
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
            inject(fault, stage).await
        }
        Err(error) => Err(error),
    };
    std::fs::write(gate, "")?;
    injected
}

async fn listed(client: &mut Client, due: &[String]) -> Result<()> {
    let tools = client.tools().await?;
    let missing: Vec<_> = due.iter().filter(|tool| !tools.contains(tool)).collect();
    let more: Vec<_> = tools.iter().filter(|tool| !due.contains(tool)).collect();
    ensure!(tools == due, "its list lacks {missing:?} and has {more:?}, or is in another order");
    Ok(())
}

/// Checks the end of a call that was in flight during the fault. All of them had been executed.
fn becomes(fault: Fault, resumes: bool, end: &End) -> Result<()> {
    match end {
        End::Answered(_) => Ok(()),
        _ if fault.answers() => bail!("a call under way was not answered: {}", end.text()),
        End::Problem(code, _) if code == "call_interrupted" => Ok(()),
        End::Broken(_) if fault.cuts_clients_off() && !resumes => Ok(()),
        End::Problem(..) | End::Broken(_) => bail!("a call under way ended with {}", end.text()),
    }
}

fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort_unstable();
    names
}
