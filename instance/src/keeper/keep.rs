//! The keeper: a small process whose only work is to restart an agent that dies.
//!
//! It loops over start → wait → end what is left → wait longer. As a child subreaper it adopts all that a killed agent
//! leaves, and ends it before the next agent starts. There is one agent at a time. An agent that ended regularly ends
//! the keeper, and so does one whose name another instance took meanwhile. The keeper never ends while something of its
//! instance runs.

use super::keeper_watch::DONE;
use super::orders::{self, Orders, OrdersPipe, Report, open_log};
use crate::agent::{RunOptions, Signals};
use crate::env::{KEEPER, keeper_mark};
use crate::owner_mark::InstanceRun;
use crate::supervisor::child::{ProcessExit, ended};
use crate::supervisor::reaper::{Reaper, reap_adopted};
use crate::supervisor::tree::{ProcessTree, StopTimeouts};
use linchpin_shared::backoff::{self, Backoff};
use linchpin_shared::home::Home;
use linchpin_shared::panics;
use linchpin_shared::problem::{Code, Exit, Problem};
use linchpin_shared::process::{Identity, Signal, exited};
use linchpin_shared::random;
use linchpin_shared::registry::record::instance_id;
use linchpin_shared::settings::Settings;
use rustix::process::Pid;
use std::io::{self, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::unix::pipe;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

/// How long the last report of an agent that has ended is awaited. It is in the pipe already, or never arrives.
const LAST_REPORT: Duration = Duration::from_secs(1);

/// Keeps an agent running, as the caller that started this process orders. It needs a tokio runtime, for which one
/// thread is enough.
pub async fn keep() -> Exit {
    // It fails only for the leader of a process group, and the caller did not make this process one.
    let _ = rustix::process::setsid();
    panics::heed();
    let keeper = match Keeper::new().await {
        Ok(keeper) => keeper,
        Err(problem) => {
            let exit = problem.exit();
            Report::Problem(problem).send();
            return exit;
        }
    };
    match panics::unless("keeper", keeper.run()).await {
        Some(exit) => exit,
        None => {
            // An agent that is registered starts another keeper.
            let problem = panics::problem();
            let exit = problem.exit();
            Report::Problem(problem).send();
            exit
        }
    }
}

struct Keeper {
    orders: Orders,
    /// From the process that started this one.
    pipe: OrdersPipe,
    signals: Signals,
    reaper: Arc<Reaper>,
    backoff: Backoff,
    stop_timeout: Duration,
    /// Whether the caller has got a report.
    reported: bool,
    /// The problem that the current agent reported.
    problem: Option<Problem>,
    /// Whether a signal asked the keeper to stop.
    stop_requested: bool,
    /// Cancelled by a second signal: what is left is killed at once.
    kill: CancellationToken,
}

/// What follows a run of the agent.
enum NextStep {
    /// It ended regularly, or the keeper was asked to end it: end with this code.
    Finish(Exit),
    Restart,
}

impl Keeper {
    async fn new() -> Result<Self, Problem> {
        let signals = Signals::listen()?;
        let (mut orders, pipe) = orders::read().await?;
        orders.keeper = Identity::current().ok();
        let instance = Settings::load(&Home::from_env()?)?.instance;
        let reaper = Arc::new(Reaper::become_subreaper());
        tokio::spawn(reap_adopted(Arc::clone(&reaper)));
        let policy = backoff::BackoffPolicy {
            min: instance.backoff_min,
            max: instance.backoff_max,
            reset_after: instance.backoff_reset,
        };
        let (backoff, stop_timeout) = (Backoff::new(policy), instance.stop_timeout);
        let reported = orders.adopt.is_some();
        let (problem, stop_requested, kill) = (None, false, CancellationToken::new());
        Ok(Self { orders, pipe, signals, reaper, backoff, stop_timeout, reported, problem, stop_requested, kill })
    }

    async fn run(mut self) -> Exit {
        loop {
            let started = Instant::now();
            if let NextStep::Finish(exit) = self.run_once().await {
                return exit;
            }
            self.backoff.healthy_for(started.elapsed());
            let delay = self.backoff.next_delay(random::bits());
            tracing::warn!(delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX), "the agent is restarted");
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                _ = self.signals.next() => return Exit::Ok,
            }
        }
    }

    /// Runs an agent until it and everything that it started are gone.
    async fn run_once(&mut self) -> NextStep {
        if let Some(agent) = self.orders.adopt.take() {
            return self.adopted(&agent).await;
        }
        let (mut agent, reports) = match self.start() {
            Ok(started) => started,
            Err(error) => return self.not_started(&error),
        };
        self.problem = None;
        let (exit, stopping) = self.watch(&agent, reports).await;
        if let Err(error) = self.reaper.wait(&mut agent) {
            tracing::debug!(%error, "cannot reap the agent");
        }
        let reaper = Arc::clone(&self.reaper);
        self.end_left(ProcessTree::Adopted(&reaper)).await;
        if self.stop_requested || stopping || exit == ProcessExit::Code(0) {
            return NextStep::Finish(Exit::Ok);
        }
        tracing::warn!(%exit, "the agent died");
        self.decide(exit)
    }

    /// Waits for the end of an agent whose first keeper was killed. What it leaves is not adopted by this process.
    async fn adopted(&mut self, agent: &Identity) -> NextStep {
        let mut end = std::pin::pin!(exited(agent));
        while let Err(signal) = self.signals.or_signal(end.as_mut()).await {
            self.on_signal(signal, Some(agent));
        }
        let mut last_line = String::new();
        let was_read = timeout(LAST_REPORT, self.pipe.read_line(&mut last_line)).await.is_ok();
        let RunOptions { name, project_dir, .. } = &self.orders.options;
        let instance = instance_id(project_dir, name.as_deref().unwrap_or_default());
        self.end_left(ProcessTree::DeadRun(InstanceRun::of(instance, agent))).await;
        if self.stop_requested || (was_read && last_line.trim_end() == DONE) {
            return NextStep::Finish(Exit::Ok);
        }
        tracing::warn!("the agent died");
        self.problem = None;
        self.decide(ProcessExit::Unknown)
    }

    /// Ends the processes that the agent left.
    async fn end_left(&mut self, tree: ProcessTree<'_>) {
        let timeouts = StopTimeouts { before_term: Duration::ZERO, after_term: self.stop_timeout };
        let kill = self.kill.clone();
        let mut ending = std::pin::pin!(tree.end(timeouts, &kill));
        while let Err(signal) = self.signals.or_signal(ending.as_mut()).await {
            self.on_signal(signal, None);
        }
    }

    /// Passes a signal on to the agent. A second one also kills what is left at once.
    fn on_signal(&mut self, signal: &str, agent: Option<&Identity>) {
        if std::mem::replace(&mut self.stop_requested, true) {
            tracing::warn!(signal, "second signal: what is left is killed at once");
            self.kill.cancel();
        }
        if let Some(agent) = agent {
            ask_to_stop(agent, signal);
        }
    }

    /// Decides whether an agent that died is restarted.
    fn decide(&mut self, exit: ProcessExit) -> NextStep {
        let problem = self.problem.take();
        if !self.reported {
            let no_report = || {
                Problem::new(Code::Internal, format!("the agent ended before it was ready: {exit}"))
                    .next(format!("cat {}", self.orders.log.display()))
            };
            let problem = problem.unwrap_or_else(no_report);
            let exit = problem.exit();
            Report::Problem(problem).send();
            return NextStep::Finish(exit);
        }
        match problem {
            Some(problem) if problem.code == Code::NameTaken => {
                tracing::error!(%problem, "another instance has the name now; the agent is not restarted");
                NextStep::Finish(problem.exit())
            }
            Some(_) | None => NextStep::Restart,
        }
    }

    fn not_started(&mut self, error: &io::Error) -> NextStep {
        let problem = Problem::from_io(error, Code::Internal, "cannot start the agent")
            .seen("executable", self.orders.relaunch.executable.display().to_string())
            .next(format!("ls -l {}", self.orders.relaunch.executable.display()));
        tracing::error!(%problem, "cannot start the agent");
        self.problem = Some(problem);
        self.decide(ProcessExit::Unknown)
    }

    fn start(&self) -> io::Result<(Child, pipe::Receiver)> {
        let Orders { relaunch, options, log, .. } = &self.orders;
        let orders = self.orders.to_line()?;
        let mut command = Command::new(relaunch.program());
        command.args(&relaunch.agent).arg(options.name.as_deref().unwrap_or_default()).args(relaunch.typed_args());
        command.env(KEEPER, keeper_mark(&Identity::current()?));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(open_log(log).map_err(io::Error::other)?);
        let mut process = self.reaper.start(&mut command)?;
        // If it fails, the agent died before it read its orders, which is noticed anyway. The orders fit into the pipe.
        let _ = process.stdin.take().map(|mut stdin| stdin.write_all(&orders));
        let stdout = process.stdout.take().ok_or_else(|| io::Error::other("the agent has no standard output"))?;
        Ok((process, pipe::Receiver::from_owned_fd(stdout.into())?))
    }

    /// Waits for the end of the agent while reading its reports and passing on every signal. Also returns whether it
    /// ended regularly.
    async fn watch(&mut self, agent: &Child, reports: pipe::Receiver) -> (ProcessExit, bool) {
        let identity = Identity::of(agent.id()).ok();
        let mut exited = std::pin::pin!(ended(Pid::from_child(agent), identity.as_ref()));
        let mut reports = BufReader::new(reports).lines();
        let (mut stopping, mut open) = (false, true);
        loop {
            tokio::select! {
                line = reports.next_line(), if open => match line {
                    Ok(Some(line)) => stopping |= self.on_report(&line),
                    Ok(None) | Err(_) => open = false,
                },
                exit = exited.as_mut() => {
                    while let Ok(Ok(Some(line))) = timeout(LAST_REPORT, reports.next_line()).await {
                        stopping |= self.on_report(&line);
                    }
                    return (exit, stopping);
                }
                signal = self.signals.next() => {
                    self.on_signal(signal, identity.as_ref());
                }
            }
        }
    }

    /// Passes the first report on to the caller and remembers what the next agent needs. Returns whether the agent has
    /// started to end.
    fn on_report(&mut self, line: &str) -> bool {
        match serde_json::from_str(line) {
            Ok(Report::Ready(started)) => {
                self.orders.options.keep_name(started.name.clone());
                if !self.reported {
                    self.reported = true;
                    Report::Ready(started).send();
                }
                false
            }
            Ok(Report::Problem(problem)) => {
                self.problem = Some(problem);
                false
            }
            Ok(Report::Stopping) => true,
            Err(_) => false,
        }
    }
}

fn ask_to_stop(agent: &Identity, signal: &str) {
    tracing::info!(signal, "asking the agent to stop");
    if let Err(error) = agent.signal(Signal::TERM) {
        tracing::warn!(%error, "cannot ask the agent to stop");
    }
}
