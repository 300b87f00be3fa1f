//! The actor that owns one supervised process.
//!
//! Owns the loop `wait → live → end the tree → decide`. States, as told on the board: `waiting → running → stopping →
//! waiting | ended`.
//! Invariant: one life at a time; the next begins only after the tree of the last is gone.
//! Never: blocks on the log or on who reads the state.

use super::child::{Child, End, Pipes};
use super::listening::Ports;
use super::output::{Stream, pump};
use super::policy::{Cause, Next, Policy};
use super::tree::{Patience, Tree};
use super::{Spec, Surroundings, Wiring, port};
use crate::mcp::Session;
use jiff::Timestamp;
use linchpin_shared::logfile::tail;
use linchpin_shared::panics;
use linchpin_shared::protocol::vitals::{self, ProcessState};
use linchpin_shared::random;
use std::io;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long a stdio server may take to end after its input was closed, before SIGTERM (MCP, "Shutdown").
const UNASKED: Duration = Duration::from_secs(1);
/// A process that ends closes its pipes a moment before its end can be seen. One that lives longer broke its session.
const CLOSING: Duration = Duration::from_millis(200);
/// How long the output of an ended life may take to be shown. A terminal may be held (Ctrl-S) for ever.
const LAST_OUTPUT: Duration = Duration::from_secs(1);

/// How many of its last lines are read when a process crashed.
const LAST_LINES: usize = 50;

/// The owner of one process.
pub(super) struct Actor {
    spec: Spec,
    surroundings: Surroundings,
    policy: Policy,
    state: watch::Sender<vitals::Process>,
    orders: mpsc::Receiver<()>,
    stop: CancellationToken,
    hurry: CancellationToken,
    epoch: u64,
    /// The port that this life was given.
    given: Option<u16>,
}

/// What is attached to one life.
struct Attached {
    session: Option<Session>,
    ports: Ports,
    pumps: TaskTracker,
    ended: CancellationToken,
}

impl Actor {
    pub(super) fn new(
        spec: Spec,
        surroundings: Surroundings,
        state: watch::Sender<vitals::Process>,
        orders: mpsc::Receiver<()>,
        stop: CancellationToken,
        hurry: CancellationToken,
    ) -> Self {
        let policy = Policy::new(spec.on_success, spec.backoff);
        Self { spec, surroundings, policy, state, orders, stop, hurry, epoch: 0, given: None }
    }

    pub(super) async fn run(mut self) {
        let mut delay = Duration::ZERO;
        while self.wait(delay).await {
            let begun = Instant::now();
            let cause = self.live().await;
            let Next::Start(after) = self.policy.next(&cause, begun.elapsed(), random::bits()) else { break };
            delay = after;
            self.plan(&cause, delay);
        }
        // What a slow terminal does not take in this time is given up.
        let _ = timeout(LAST_OUTPUT, self.surroundings.log.flush()).await;
        self.tell(|state| {
            state.state = ProcessState::Ended;
            state.next_start = None;
        });
    }

    /// Waits for the next start. `false`: it shall not start.
    async fn wait(&mut self, delay: Duration) -> bool {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => return false,
            () = tokio::time::sleep(delay) => {}
            Some(()) = self.orders.recv() => {}
        }
        // What was ordered until now is fulfilled by this start.
        while self.orders.try_recv().is_ok() {}
        true
    }

    /// One life, from start to reaped.
    async fn live(&mut self) -> Cause {
        let started = match self.start() {
            Ok(started) => started,
            Err(error) => return self.not_started(&error),
        };
        let (child, mut attached) = started;
        let (pid, given) = (child.pid().as_raw_nonzero().get(), self.given);
        self.tell(|state| {
            state.state = ProcessState::Running;
            state.pid = Some(pid.cast_unsigned());
            state.given_port = given;
            state.next_start = None;
        });
        let cause = self.watch(&child, &mut attached).await;
        self.tell(|state| state.state = ProcessState::Stopping);
        self.finish(child, attached, &cause).await;
        cause
    }

    fn start(&mut self) -> io::Result<(Child, Attached)> {
        let stdin = match self.spec.wiring {
            Wiring::Stdio(_) => Stdio::piped(),
            Wiring::Output | Wiring::Url(_) => Stdio::null(),
        };
        self.given = self.spec.port.next(&self.surroundings.home)?;
        self.spec.program.set(port::VARIABLE, self.given.map(|port| port.to_string().into()));
        let (child, pipes) = Child::start(&self.spec.program, stdin, &self.surroundings.reaper)?;
        self.epoch += 1;
        self.surroundings.log.note(&format!("{} started, pid {}", self.spec.name, child.pid()));
        let attached = self.attach(&child, pipes)?;
        Ok((child, attached))
    }

    fn attach(&self, child: &Child, pipes: Pipes) -> io::Result<Attached> {
        let Pipes { stdin, mut stdout, stderr } = pipes;
        let log = &self.surroundings.log;
        let session = match (&self.spec.wiring, stdin) {
            (Wiring::Stdio(plug), Some(stdin)) => match stdout.take() {
                Some(stdout) => Some(plug.begin(self.epoch, stdin, stdout, log.clone())?),
                None => None,
            },
            (Wiring::Url(plug), _) => {
                plug.put_up(true, self.epoch);
                None
            }
            (Wiring::Output | Wiring::Stdio(_), _) => None,
        };
        let (pumps, ended) = (TaskTracker::new(), CancellationToken::new());
        for (pipe, stream) in [(stdout, Stream::Out), (stderr, Stream::Err)] {
            if let Some(pipe) = pipe {
                pumps.spawn(pump(pipe, stream, log.clone(), ended.clone()));
            }
        }
        let ports = Ports::watch(child.pid(), &self.spec.program.owner, &self.surroundings.reaper);
        Ok(Attached { session, ports, pumps, ended })
    }

    /// Waits for what ends this life.
    async fn watch(&mut self, child: &Child, attached: &mut Attached) -> Cause {
        let Attached { session, ports, .. } = attached;
        let mut broken = std::pin::pin!(async {
            match session {
                Some(session) => session.broken().await,
                None => std::future::pending().await,
            }
        });
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Cause::Stop,
                end = child.exited() => return Cause::Exited(end),
                Some(()) = self.orders.recv() => return Cause::Asked,
                why = broken.as_mut() => return match timeout(CLOSING, child.exited()).await {
                    Ok(end) => Cause::Exited(end),
                    Err(_) => Cause::Broken(why),
                },
                ports = ports.changed() => self.listens(ports),
                () = panics::demanded("supervisor") => {}
            }
        }
    }

    fn listens(&self, ports: Vec<vitals::Port>) {
        let text: Vec<String> = ports.iter().map(|at| SocketAddr::new(at.address, at.port).to_string()).collect();
        let text = if text.is_empty() { "no port any more".to_owned() } else { text.join(", ") };
        self.surroundings.log.note(&format!("{} listens on {text}", self.spec.name));
        self.tell(|state| state.ports = ports);
    }

    /// How a life ended that failed while somebody else has the port that it wanted: the one that it was given, or one
    /// that it complained of. It blocks for some milliseconds, after a crash.
    fn with_culprit(&self, end: String, cause: &Cause) -> String {
        let culprit = match cause {
            Cause::Exited(End::Code(code)) if *code != 0 => self.culprit(),
            Cause::Exited(_) | Cause::NotStarted(_) | Cause::Broken(_) | Cause::Asked | Cause::Stop => None,
        };
        match culprit {
            Some(culprit) => format!("{end}; {culprit}"),
            None => end,
        }
    }

    fn culprit(&self) -> Option<String> {
        let Surroundings { home, log_file, .. } = &self.surroundings;
        if let Some(given) = self.given.filter(|port| !port::is_free(*port)) {
            return Some(port::taken_by(home, given));
        }
        // What earlier lives said is no news.
        let started = format!("{} started, pid", self.spec.name);
        let said = tail(log_file, LAST_LINES).ok()?;
        port::complained_of(home, said.iter().rev().take_while(|line| !line.contains(&started)))
    }

    /// Ends what is attached, then the whole tree, and reaps.
    async fn finish(&mut self, child: Child, attached: Attached, cause: &Cause) {
        let asked = self.spec.stop_timeout;
        let mut patience = Patience { unasked: Duration::ZERO, asked };
        match (&self.spec.wiring, attached.session) {
            (Wiring::Stdio(plug), Some(session)) => {
                plug.end(session, describe(cause)).await;
                if matches!(cause, Cause::Asked | Cause::Stop) {
                    patience.unasked = UNASKED.min(asked);
                }
            }
            (Wiring::Url(plug), _) => plug.put_up(false, self.epoch),
            (Wiring::Output | Wiring::Stdio(_), _) => {}
        }
        let (owner, reaper) = (&self.spec.program.owner, &*self.surroundings.reaper);
        Tree::Process { leader: child.pid(), owner, reaper }.end(patience, &self.hurry).await;
        attached.ended.cancel();
        attached.pumps.close();
        if timeout(LAST_OUTPUT, attached.pumps.wait()).await.is_err() {
            tracing::debug!(process = self.spec.name, "the last output is given up: nobody takes it");
        }
        let end = match cause {
            Cause::Exited(end) => end.to_string(),
            Cause::NotStarted(_) | Cause::Broken(_) | Cause::Asked | Cause::Stop => {
                // The leader has ended, like all of its tree.
                format!("{} ({})", describe(cause), child.exited().await)
            }
        };
        child.reap();
        let end = self.with_culprit(end, cause);
        self.surroundings.log.note(&format!("{} ended: {end}", self.spec.name));
        self.tell(|state| {
            state.pid = None;
            state.last_end = Some(end);
            state.given_port = None;
            state.ports = Vec::new();
        });
    }

    fn not_started(&mut self, error: &io::Error) -> Cause {
        let why = format!("it could not be started: {error}");
        tracing::warn!(process = self.spec.name, %error, "a process could not be started");
        self.surroundings.log.note(&format!("{}: {why}", self.spec.name));
        self.tell(|state| state.last_end = Some(why.clone()));
        Cause::NotStarted(why)
    }

    /// Tells that the next life begins after this delay.
    fn plan(&self, cause: &Cause, delay: Duration) {
        let by_itself = match cause {
            Cause::Exited(_) | Cause::NotStarted(_) | Cause::Broken(_) => 1,
            Cause::Asked | Cause::Stop => 0,
        };
        if !delay.is_zero() {
            self.surroundings.log.note(&format!("{} starts again in {} ms", self.spec.name, delay.as_millis()));
        }
        self.tell(|state| {
            state.state = ProcessState::Waiting;
            state.restarts += by_itself;
            state.next_start = Timestamp::now().checked_add(delay).ok();
        });
    }

    /// Changes the state and tells everybody who looks.
    fn tell(&self, change: impl FnOnce(&mut vitals::Process)) {
        self.state.send_modify(|state| {
            let before = state.state;
            change(state);
            if before != state.state {
                state.since = Timestamp::now();
            }
        });
        self.surroundings.board.set_process(self.state.borrow().clone());
    }
}

/// How a life ended, for who waited for it.
fn describe(cause: &Cause) -> String {
    match cause {
        Cause::Exited(end) => end.to_string(),
        Cause::NotStarted(why) => why.clone(),
        Cause::Broken(why) => (*why).to_owned(),
        Cause::Asked => String::from("restarted on request"),
        Cause::Stop => String::from("stopped on request"),
    }
}
