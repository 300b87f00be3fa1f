//! The keeper: a small process whose only work is to start an agent again when it dies.
//!
//! Owns the loop `start → wait → end what was left → wait longer`. As a child subreaper it becomes the parent of all that
//! a killed agent leaves, and ends it before the next agent starts.
//! Invariant: one agent at a time; an agent that ended as it should ends the keeper, and so does one whose name was taken
//! by another meanwhile.
//! Never: does an agent's work, or ends while something of its instance runs.

use super::standby::DONE;
use super::{Line, Orders, Report, open_log, orders, report, said};
use crate::agent::RunOptions;
use crate::agent::signals::Signals;
use crate::conflict::{KEEPER, keeper_mark};
use crate::supervisor::child::{End, ended};
use crate::supervisor::mark::Life;
use crate::supervisor::reaper::{Reaper, collect};
use crate::supervisor::tree::{Patience, Tree};
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

/// How long the report of an agent that has ended is still waited for. It is in the pipe already, or never comes.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Keeps an agent, as the caller that started this process orders. Needs a tokio runtime; that of one thread is enough.
pub async fn keep() -> Exit {
    // It fails only for the leader of a process group, and who started us did not make us one.
    let _ = rustix::process::setsid();
    panics::heed();
    let keeper = match Keeper::new().await {
        Ok(keeper) => keeper,
        Err(problem) => {
            let exit = problem.exit();
            report(&Report::Problem(problem));
            return exit;
        }
    };
    match panics::unless("keeper", keeper.run()).await {
        Some(exit) => exit,
        None => {
            // The agent, if there is one that is registered, starts another keeper.
            let problem = panics::problem();
            let exit = problem.exit();
            report(&Report::Problem(problem));
            exit
        }
    }
}

struct Keeper {
    orders: Orders,
    /// From who started us.
    line: Line,
    signals: Signals,
    reaper: Arc<Reaper>,
    backoff: Backoff,
    stop_timeout: Duration,
    /// Whether the caller was told.
    reported: bool,
    /// What the agent that lives now said of its failure.
    problem: Option<Problem>,
    /// Whether a signal asked us to end.
    asked: bool,
    /// After a second one: no patience with what is left.
    hurry: CancellationToken,
}

/// What a life of the agent came to.
enum Outcome {
    /// It ended as it should, or we were asked to end it.
    Over(Exit),
    /// It is to be started again.
    Again,
}

impl Keeper {
    async fn new() -> Result<Self, Problem> {
        let signals = Signals::listen()?;
        let (mut orders, line) = orders().await?;
        orders.keeper = Identity::current().ok();
        let instance = Settings::load(&Home::from_env()?)?.instance;
        let reaper = Arc::new(Reaper::adopting());
        tokio::spawn(collect(Arc::clone(&reaper)));
        let policy = backoff::Policy {
            min: instance.backoff_min,
            max: instance.backoff_max,
            reset_after: instance.backoff_reset,
        };
        let (backoff, stop_timeout) = (Backoff::new(policy), instance.stop_timeout);
        let reported = orders.adopt.is_some();
        let (problem, asked, hurry) = (None, false, CancellationToken::new());
        Ok(Self { orders, line, signals, reaper, backoff, stop_timeout, reported, problem, asked, hurry })
    }

    async fn run(mut self) -> Exit {
        loop {
            let begun = Instant::now();
            if let Outcome::Over(exit) = self.life().await {
                return exit;
            }
            self.backoff.healthy_for(begun.elapsed());
            let delay = self.backoff.next_delay(random::bits());
            tracing::warn!(delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX), "the agent starts again");
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                _ = self.signals.next() => return Exit::Ok,
            }
        }
    }

    /// One life of the agent and of all that it started.
    async fn life(&mut self) -> Outcome {
        if let Some(agent) = self.orders.adopt.take() {
            return self.adopted(&agent).await;
        }
        let (mut agent, reports) = match self.start() {
            Ok(started) => started,
            Err(error) => return self.not_started(&error),
        };
        self.problem = None;
        let (end, stops) = self.watch(&agent, reports).await;
        if let Err(error) = self.reaper.wait(&mut agent) {
            tracing::debug!(%error, "cannot wait for the agent");
        }
        let reaper = Arc::clone(&self.reaper);
        self.end_left(Tree::Strays(&reaper)).await;
        if self.asked || stops || end == End::Code(0) {
            return Outcome::Over(Exit::Ok);
        }
        tracing::warn!(%end, "the agent died");
        self.judge(end)
    }

    /// The rest of a life of an agent whose keeper was killed. What it leaves does not come to us.
    async fn adopted(&mut self, agent: &Identity) -> Outcome {
        let mut end = std::pin::pin!(exited(agent));
        while let Err(signal) = self.signals.unless_heard(end.as_mut()).await {
            self.heed(signal, Some(agent));
        }
        let mut last_words = String::new();
        let said = timeout(LAST_WORDS, self.line.read_line(&mut last_words)).await.is_ok();
        let RunOptions { name, project_dir, .. } = &self.orders.options;
        let instance = instance_id(project_dir, name.as_deref().unwrap_or_default());
        self.end_left(Tree::Dead(Life::of(instance, agent))).await;
        if self.asked || (said && last_words.trim_end() == DONE) {
            return Outcome::Over(Exit::Ok);
        }
        tracing::warn!("the agent died");
        self.problem = None;
        self.judge(End::Unknown)
    }

    /// Ends what the agent left.
    async fn end_left(&mut self, tree: Tree<'_>) {
        let patience = Patience { unasked: Duration::ZERO, asked: self.stop_timeout };
        let hurry = self.hurry.clone();
        let mut ending = std::pin::pin!(tree.end(patience, &hurry));
        while let Err(signal) = self.signals.unless_heard(ending.as_mut()).await {
            self.heed(signal, None);
        }
    }

    /// A first signal is passed on; a second one also ends our own patience.
    fn heed(&mut self, signal: &str, agent: Option<&Identity>) {
        if std::mem::replace(&mut self.asked, true) {
            tracing::warn!(signal, "a second signal: what is left is killed at once");
            self.hurry.cancel();
        }
        if let Some(agent) = agent {
            ask_to_stop(agent, signal);
        }
    }

    /// Whether an agent that died is started again.
    fn judge(&mut self, end: End) -> Outcome {
        let problem = self.problem.take();
        if !self.reported {
            let silent = || Problem::new(Code::Internal, format!("the agent ended before it was ready: {end}"));
            let problem = problem.unwrap_or_else(|| silent().next(format!("cat {}", self.orders.log.display())));
            let exit = problem.exit();
            report(&Report::Problem(problem));
            return Outcome::Over(exit);
        }
        match problem {
            Some(problem) if problem.code == Code::NameTaken => {
                tracing::error!(%problem, "another instance has the name now; giving up");
                Outcome::Over(problem.exit())
            }
            Some(_) | None => Outcome::Again,
        }
    }

    fn not_started(&mut self, error: &io::Error) -> Outcome {
        let problem = Problem::from_io(error, Code::Internal, "cannot start the agent")
            .seen("executable", self.orders.relaunch.executable.display().to_string())
            .next(format!("ls -l {}", self.orders.relaunch.executable.display()));
        tracing::error!(%problem, "cannot start the agent");
        self.problem = Some(problem);
        self.judge(End::Unknown)
    }

    fn start(&self) -> io::Result<(Child, pipe::Receiver)> {
        let Orders { relaunch, options, log, .. } = &self.orders;
        let mut orders = serde_json::to_vec(&self.orders)?;
        orders.push(b'\n');
        let mut command = Command::new(relaunch.program());
        command.args(&relaunch.agent).arg(options.name.as_deref().unwrap_or_default()).args(said(relaunch));
        command.env(KEEPER, keeper_mark(&Identity::current()?));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(open_log(log).map_err(io::Error::other)?);
        let mut process = self.reaper.start(&mut command)?;
        // An agent that died before it read its orders is seen to have died. The orders fit into the pipe.
        let _ = process.stdin.take().map(|mut stdin| stdin.write_all(&orders));
        let stdout = process.stdout.take().ok_or_else(|| io::Error::other("the agent has no standard output"))?;
        Ok((process, pipe::Receiver::from_owned_fd(stdout.into())?))
    }

    /// Waits for the end of the agent, listens to its reports and passes on every signal. Also says whether it ended as it
    /// should.
    async fn watch(&mut self, agent: &Child, reports: pipe::Receiver) -> (End, bool) {
        let identity = Identity::of(agent.id()).ok();
        let mut end = std::pin::pin!(ended(Pid::from_child(agent), identity.as_ref()));
        let mut reports = BufReader::new(reports).lines();
        let (mut stops, mut open) = (false, true);
        loop {
            tokio::select! {
                line = reports.next_line(), if open => match line {
                    Ok(Some(line)) => stops |= self.hear(&line),
                    Ok(None) | Err(_) => open = false,
                },
                end = end.as_mut() => {
                    while let Ok(Ok(Some(line))) = timeout(LAST_WORDS, reports.next_line()).await {
                        stops |= self.hear(&line);
                    }
                    return (end, stops);
                }
                signal = self.signals.next() => {
                    self.heed(signal, identity.as_ref());
                }
            }
        }
    }

    /// Passes the first report on to the caller, and remembers what the next agent needs to know. Says whether the agent
    /// is about to end.
    fn hear(&mut self, line: &str) -> bool {
        match serde_json::from_str(line) {
            Ok(Report::Ready(started)) => {
                self.orders.options.settle(started.name.clone());
                if !self.reported {
                    self.reported = true;
                    report(&Report::Ready(started));
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
