//! The life of an agent.

use super::options::{MAIN, Offer, Plan, PortChoice, RunOptions};
use super::services;
use super::signals::Signals;
use super::wiring::{self, Wired};
use crate::conflict::Conflict;
use crate::leftovers;
use crate::lifecycle::{RegisteredListener, RunningInstance};
use crate::owner_mark::InstanceRun;
use crate::server::ServerState;
use crate::server::state::Restart;
use crate::supervisor::Process;
use crate::supervisor::assigned_port::AssignedPort;
use crate::supervisor::reaper::{Reaper, reap_adopted};
use crate::supervisor::tree::{ProcessTree, StopTimeouts};
use crate::vitals_publisher::VitalsPublisher;
use linchpin_shared::home::Home;
use linchpin_shared::panics;
use linchpin_shared::port::Whose;
use linchpin_shared::problem::Problem;
use linchpin_shared::registry::Registry;
use linchpin_shared::registry::record::Record;
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How much longer than its process an instance may take to stop when its name is taken over.
pub(crate) const TAKE_OVER_EXTRA: Duration = Duration::from_secs(5);

/// Why an agent ended without an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// It was asked to stop: by this signal, or over the link.
    Stopped(&'static str),
    /// The command had done its work and ended with exit code 0.
    Done,
}

/// Runs an instance until it is asked to stop or its command is done. `ready` is called once it is registered.
///
/// This takes over the whole process: it becomes a child subreaper and listens for SIGTERM, SIGINT and SIGHUP, of which
/// a second one kills what is left at once.
///
/// # Errors
/// A [`Problem`] that says what prevents it, or that a part of this process panicked. Then nothing is left running, and
/// nothing is registered.
pub async fn run(home: &Home, options: RunOptions, ready: impl FnOnce(&Record)) -> Result<Ended, Problem> {
    run_with_hooks(home, options, ready, || ()).await
}

/// As [`run`]. `stopping` is called when it starts to end regularly, after which it must not be restarted.
pub(crate) async fn run_with_hooks(
    home: &Home,
    options: RunOptions,
    ready: impl FnOnce(&Record),
    stopping: impl FnOnce(),
) -> Result<Ended, Problem> {
    let plan = Plan::new(home, options)?;
    plan.launch.lower_file_limit();
    home.prepare()?;
    panics::heed();
    check_port(home, &plan)?;
    let mut signals = Signals::listen()?;
    let reaper = Arc::new(Reaper::become_subreaper());
    let patience = plan.settings.instance.stop_timeout + TAKE_OVER_EXTRA;
    let opening = Box::pin(RegisteredListener::open(home, wiring::description(&plan), plan.conflict, patience));
    let opening = panics::unless("agent-taking", signals.or_signal(opening));
    let listener = match opening.await.ok_or_else(panics::problem)? {
        Ok(listener) => listener?.keep_record_on_drop(),
        // Nothing was started, and the record is removed again.
        Err(signal) => return Ok(Ended::Stopped(signal)),
    };
    let run = InstanceRun::of(listener.record().id, &listener.record().process);
    let agent = Agent::start(home, plan, listener, reaper).await?;
    ready(&agent.instance.state.record);
    let work = Box::pin(async {
        let ended = agent.wait(&mut signals).await;
        stopping();
        agent.or_kill(&mut signals, agent.shut_down()).await;
        ended
    });
    let ended = panics::unless("agent", work).await;
    if ended.is_none() {
        Box::pin(agent.or_kill(&mut signals, agent.end_all(run))).await;
    }
    let id = agent.instance.state.record.id;
    if let Err(problem) = agent.instance.close().await {
        // The instance has ended, so a keeper must not restart it. What is left is the record of a dead owner.
        tracing::warn!(%problem, "the record could not be removed");
        let _ = Registry::new(home).sweep(id);
    }
    ended.ok_or_else(panics::problem)
}

/// A running agent.
struct Agent {
    instance: RunningInstance,
    process: Option<Process>,
    reaper: Arc<Reaper>,
    stop_timeout: Duration,
    /// Cancelled when everything is to be killed at once.
    kill: CancellationToken,
}

impl Agent {
    async fn start(
        home: &Home,
        plan: Plan,
        listener: RegisteredListener,
        reaper: Arc<Reaper>,
    ) -> Result<Self, Problem> {
        let (record, stop_timeout) = (listener.record().clone(), plan.settings.instance.stop_timeout);
        leftovers::end_earlier(&record, stop_timeout).await;
        tokio::spawn(reap_adopted(Arc::clone(&reaper)));
        let vitals = Arc::new(VitalsPublisher::new(record.generation));
        let Wired { process, server } = match wiring::wire(home, &plan, &record, &vitals, &reaper) {
            Ok(wired) => wired,
            Err(problem) => {
                listener.unregister().await?;
                return Err(problem);
            }
        };
        let servers = server.map(|server| (MAIN.to_owned(), server)).into_iter().collect();
        let processes: BTreeMap<_, _> = process.clone().map(restart).into_iter().collect();
        let instance = listener.serve(ServerState::new(record, vitals, servers, processes));
        if let (Some(process), Offer::Nothing) = (&process, &plan.offer) {
            tokio::spawn(services::publish(process.clone(), instance.services()));
        }
        Ok(Self { instance, process, reaper, stop_timeout, kill: CancellationToken::new() })
    }

    /// Waits for a reason to end.
    async fn wait(&self, signals: &mut Signals) -> Ended {
        let done = async {
            match &self.process {
                Some(process) => process.ended().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            signal = signals.next() => Ended::Stopped(signal),
            () = self.instance.state.stop_requested.cancelled() => Ended::Stopped("linchpin stop"),
            _ = done => Ended::Done,
        }
    }

    /// Awaits `ending`. A signal meanwhile kills everything at once.
    async fn or_kill(&self, signals: &mut Signals, ending: impl Future<Output = ()>) {
        let mut ending = std::pin::pin!(ending);
        while let Err(signal) = signals.or_signal(ending.as_mut()).await {
            tracing::warn!(signal, "second signal: everything is killed at once");
            self.kill.cancel();
            self.process.iter().for_each(Process::kill);
        }
    }

    async fn shut_down(&self) {
        self.kill.run_until_cancelled(self.instance.drain()).await;
        if let Some(process) = &self.process {
            process.stop();
            process.ended().await;
        }
        // Adopted children without a mark belong to no process; they end with the agent.
        ProcessTree::Adopted(&self.reaper).end(self.timeouts(), &self.kill).await;
    }

    /// Ends everything although one of our tasks may be gone, for example the one that supervised the process.
    async fn end_all(&self, run: InstanceRun) {
        self.shut_down().await;
        ProcessTree::DeadRun(run).end(self.timeouts(), &self.kill).await;
    }

    const fn timeouts(&self) -> StopTimeouts {
        StopTimeouts { before_term: Duration::ZERO, after_term: self.stop_timeout }
    }
}

fn restart(process: Process) -> (String, Restart) {
    (process.name().to_owned(), Box::new(move || process.restart()))
}

/// Rejects a port that stays taken, before anything is registered. What an earlier run of this instance left will be
/// ended, and an instance of this name either prevents the start or is stopped: the port that they hold is accepted for
/// now and checked again later.
fn check_port(home: &Home, plan: &Plan) -> Result<(), Problem> {
    let PortChoice::Exactly(port) = plan.port else { return Ok(()) };
    AssignedPort::Exactly(port).check_unless(home, |owner| match owner {
        Whose::Instance { name, .. } => *name == plan.name && plan.conflict != Conflict::Alongside,
        Whose::Orphan { name } => name.as_ref().is_none_or(|name| *name == plan.name),
        Whose::Hub | Whose::Stranger => false,
    })
}
