//! The agent: what `linchpin run` becomes. One process, supervised, as one instance.
//!
//! Owns its life: plan → bind → register → start the process → serve → drain → stop the process → unregister.
//! Invariant: the record is there for as long as anything of the process tree is; whatever an earlier life of this
//! instance left behind is ended before the process starts again.
//! Never: registers before it listens, or starts the process before the name is ours: two of one project fight.

mod handed;
mod options;
mod services;
pub(crate) mod signals;

pub use handed::Handed;
pub use options::{Kind, Port, RunOptions};

use crate::board::Board;
use crate::conflict::Conflict;
use crate::leftovers;
use crate::mcp::proxy::{self, Proxy};
use crate::mcp::{self, Names, stdio};
use crate::presence::{Facts, Place, Presence};
use crate::server::App;
use crate::supervisor::child::Program;
use crate::supervisor::mark::Life;
use crate::supervisor::output::{Log, Terminal};
use crate::supervisor::policy::OnSuccess;
use crate::supervisor::port::Given;
use crate::supervisor::reaper::{Reaper, collect};
use crate::supervisor::tree::{Patience, Tree};
use crate::supervisor::{Process, Spec, Surroundings, Wiring};
use linchpin_shared::backoff;
use linchpin_shared::home::{Home, private_dir};
use linchpin_shared::logfile;
use linchpin_shared::panics;
use linchpin_shared::port::Whose;
use linchpin_shared::problem::{Code, Problem};
use linchpin_shared::protocol::vitals::Transport;
use linchpin_shared::registry::Registry;
use linchpin_shared::registry::record::{self, Record};
use options::Plan;
use signals::Signals;
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The name of the one process and the one MCP server of `linchpin run`.
pub const MAIN: &str = "main";
/// What an instance whose name is taken over may need beyond the time that its process has to end.
pub(crate) const TAKE_OVER_EXTRA: Duration = Duration::from_secs(5);

/// How an agent ended well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// It was asked to: by this signal, or over the link.
    Stopped(&'static str),
    /// The command had done its work: it ended with exit code 0.
    Done,
}

/// Runs an instance until it is asked to stop or its command is done. `ready` is called once it is registered.
///
/// It takes over this process: it becomes a child subreaper and listens for SIGTERM, SIGINT and SIGHUP, of which a second
/// one ends all patience.
///
/// # Errors
/// A [`Problem`] that says what was in the way, or that a part of us panicked. Then nothing is left running, and nothing is
/// registered.
pub async fn run(home: &Home, options: RunOptions, ready: impl FnOnce(&Record)) -> Result<Ended, Problem> {
    run_telling(home, options, ready, || ()).await
}

/// As [`run`]; `stopping` is called once it begins to end as it should, after which nobody shall start it again.
pub(crate) async fn run_telling(
    home: &Home,
    options: RunOptions,
    ready: impl FnOnce(&Record),
    stopping: impl FnOnce(),
) -> Result<Ended, Problem> {
    let plan = Plan::new(home, options)?;
    plan.handed.limit_files();
    home.prepare()?;
    panics::heed();
    foresee(home, &plan)?;
    let mut signals = Signals::listen()?;
    let reaper = Arc::new(Reaper::adopting());
    let patience = plan.settings.instance.stop_timeout + TAKE_OVER_EXTRA;
    let taking = Box::pin(Place::take(home, facts(&plan), plan.conflict, patience));
    let taking = panics::unless("agent-taking", signals.unless_heard(taking));
    let place = match taking.await.ok_or_else(panics::problem)? {
        Ok(place) => place?.outlived(),
        // Nothing was started, and the place is given back.
        Err(signal) => return Ok(Ended::Stopped(signal)),
    };
    let life = Life::of(place.record().id, &place.record().process);
    let agent = Agent::start(home, plan, place, reaper).await?;
    ready(&agent.presence.app.record);
    let work = Box::pin(async {
        let ended = agent.wait(&mut signals).await;
        stopping();
        agent.heeding(&mut signals, agent.take_down()).await;
        ended
    });
    let ended = panics::unless("agent", work).await;
    if ended.is_none() {
        Box::pin(agent.heeding(&mut signals, agent.end_all(life))).await;
    }
    let id = agent.presence.app.record.id;
    if let Err(problem) = agent.presence.leave().await {
        // It did end, so a keeper must not start it again. What stays is the record of a dead owner, which is swept.
        tracing::warn!(%problem, "the record could not be removed");
        let _ = Registry::new(home).sweep(id);
    }
    ended.ok_or_else(panics::problem)
}

/// A running agent.
struct Agent {
    presence: Presence,
    process: Option<Process>,
    reaper: Arc<Reaper>,
    stop_timeout: Duration,
    hurry: CancellationToken,
}

impl Agent {
    async fn start(home: &Home, plan: Plan, place: Place, reaper: Arc<Reaper>) -> Result<Self, Problem> {
        let (record, stop_timeout) = (place.record().clone(), plan.settings.instance.stop_timeout);
        let hurry = CancellationToken::new();
        leftovers::end_earlier(&record, stop_timeout).await;
        tokio::spawn(collect(Arc::clone(&reaper)));
        let board = Arc::new(Board::new(record.generation));
        let (process, server) = match wire(home, &plan, &record, &board, &reaper) {
            Ok(wired) => wired,
            Err(problem) => {
                place.give_up().await?;
                return Err(problem);
            }
        };
        let servers: BTreeMap<_, _> = server.map(|server| (MAIN.to_owned(), server)).into_iter().collect();
        let app = App::new(record, board, servers, process.clone().into_iter().collect());
        let presence = place.serve(app);
        if let (Some(process), options::Wiring::Plain) = (&process, &plan.wiring) {
            tokio::spawn(services::keep(process.clone(), presence.services()));
        }
        Ok(Self { presence, process, reaper, stop_timeout, hurry })
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
            () = self.presence.app.stop_asked.cancelled() => Ended::Stopped("linchpin stop"),
            _ = done => Ended::Done,
        }
    }

    /// Does what ends it. Another signal meanwhile ends all patience.
    async fn heeding(&self, signals: &mut Signals, ending: impl Future<Output = ()>) {
        let mut ending = std::pin::pin!(ending);
        while let Err(signal) = signals.unless_heard(ending.as_mut()).await {
            tracing::warn!(signal, "a second signal: everything is killed at once");
            self.hurry.cancel();
            self.process.iter().for_each(Process::hurry);
        }
    }

    async fn take_down(&self) {
        self.hurry.run_until_cancelled(self.presence.drain()).await;
        if let Some(process) = &self.process {
            process.stop();
            process.ended().await;
        }
        // What came to us without a mark belongs to no process; it ends with us.
        Tree::Strays(&self.reaper).end(self.patience(), &self.hurry).await;
    }

    /// Ends everything although one of our tasks may be missing, that which looked after the process for example.
    async fn end_all(&self, life: Life) {
        self.take_down().await;
        Tree::Dead(life).end(self.patience(), &self.hurry).await;
    }

    const fn patience(&self) -> Patience {
        Patience { unasked: Duration::ZERO, asked: self.stop_timeout }
    }
}

fn facts(plan: &Plan) -> Facts {
    let server = |transport| vec![record::Server { name: MAIN.to_owned(), transport, url: None }];
    Facts {
        name: plan.name.clone(),
        project_dir: plan.project_dir.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        services: Vec::new(),
        servers: match plan.wiring {
            options::Wiring::Plain => Vec::new(),
            options::Wiring::Stdio => server(Transport::Stdio),
            options::Wiring::Url(..) => server(Transport::Http),
        },
        labels: BTreeMap::new(),
    }
}

/// Starts the process, if there is a command, and makes the front of its MCP server, if it is one.
fn wire(
    home: &Home,
    plan: &Plan,
    record: &Record,
    board: &Arc<Board>,
    reaper: &Arc<Reaper>,
) -> Result<(Option<Process>, Option<mcp::Server>), Problem> {
    port(plan, record).check(home)?;
    let names = Names { instance: record.name.clone(), server: MAIN.to_owned() };
    let max_message = plan.settings.gateway.max_message_bytes;
    let surroundings = Surroundings {
        board: Arc::clone(board),
        reaper: Arc::clone(reaper),
        log: log(home, plan, record)?,
        log_file: home.process_log(&record.name, MAIN),
        home: home.clone(),
    };
    match &plan.wiring {
        options::Wiring::Plain => Ok((supervise(plan, record, Wiring::Output, OnSuccess::Done, surroundings), None)),
        options::Wiring::Stdio => {
            let plug = stdio::Plug::new(names, Arc::clone(board), plan.settings.instance.max_line_bytes);
            let lives = plug.lives();
            let process = supervise(plan, record, Wiring::Stdio(plug), OnSuccess::Restart, surroundings);
            let front = process.clone().map(|process| mcp::Server::Stdio(lives.front(process, max_message)));
            Ok((process, front))
        }
        options::Wiring::Url(target, headers) => {
            let plug = proxy::Plug { server: MAIN.to_owned(), board: Arc::clone(board) };
            let proxy = Proxy::new(names, target.clone(), max_message).with(headers.clone());
            // Without a process of ours it counts as up, in its one life.
            plug.put_up(plan.executable.is_none(), u64::from(plan.executable.is_none()));
            let process = supervise(plan, record, Wiring::Url(plug), OnSuccess::Restart, surroundings);
            Ok((process, Some(mcp::Server::Url(proxy))))
        }
    }
}

fn supervise(
    plan: &Plan,
    record: &Record,
    wiring: Wiring,
    on_success: OnSuccess,
    surroundings: Surroundings,
) -> Option<Process> {
    let instance = &plan.settings.instance;
    let program = Program {
        path: plan.executable.clone()?,
        words: plan.words.clone(),
        dir: plan.project_dir.clone(),
        handed: plan.handed.env.clone(),
        env: vec![("LINCHPIN_INSTANCE", record.name.clone().into())],
        owner: Life::of(record.id, &record.process).mark(MAIN),
    };
    let backoff =
        backoff::Policy { min: instance.backoff_min, max: instance.backoff_max, reset_after: instance.backoff_reset };
    let stop_timeout = instance.stop_timeout;
    let spec =
        Spec { name: MAIN.to_owned(), program, port: port(plan, record), wiring, on_success, backoff, stop_timeout };
    Some(Process::start(spec, surroundings))
}

/// Refuses a port that stays taken, before anything is registered. What an earlier life of ours left will be ended, and
/// an instance of our name either keeps us out or is stopped: those are no reason yet, and are asked about again.
fn foresee(home: &Home, plan: &Plan) -> Result<(), Problem> {
    let Port::Exactly(port) = plan.port else { return Ok(()) };
    Given::Exactly(port).check_unless(home, |whose| match whose {
        Whose::Instance { name, .. } => *name == plan.name && plan.conflict != Conflict::Alongside,
        Whose::Orphan { name } => name.as_ref().is_none_or(|name| *name == plan.name),
        Whose::Hub | Whose::Stranger => false,
    })
}

/// Which port the process is given. An MCP server on a pipe needs none, and one at a URL has its own.
fn port(plan: &Plan, record: &Record) -> Given {
    let is_set = || std::env::var_os("PORT").is_some_and(|port| !port.is_empty());
    match (plan.port, &plan.wiring) {
        (Port::Exactly(port), _) => Given::Exactly(port),
        (Port::Any, _) => Given::any(record.id),
        (Port::Default, options::Wiring::Plain) if plan.settings.instance.give_port && !is_set() => {
            Given::any(record.id)
        }
        (Port::Nothing | Port::Default, _) => Given::Nothing,
    }
}

fn log(home: &Home, plan: &Plan, record: &Record) -> Result<Log, Problem> {
    let path = home.process_log(&record.name, MAIN);
    if let Some(dir) = path.parent() {
        private_dir(dir)?;
    }
    let terminal = if plan.pass_through { Terminal::PassThrough } else { Terminal::Silent };
    let limits = &plan.settings.log;
    logfile::Writer::open(&path, limits.max_bytes, limits.keep).and_then(|file| Log::start(file, terminal)).map_err(
        |error| {
            Problem::from_io(&error, Code::HomeUnusable, "cannot open the log")
                .seen("path", path.display().to_string())
                .next(format!("ls -l {}", path.display()))
        },
    )
}
