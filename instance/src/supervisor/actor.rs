//! The actor that owns one supervised process.
//!
//! It loops over wait → run → end the tree → decide. The states that it publishes are `waiting → running → stopping →
//! waiting | ended`. There is one run at a time: the next starts only after the whole tree of the last is gone. Neither
//! the log nor a reader of the state can block it.

use super::assigned_port;
use super::child::{Child, Pipes, ProcessExit};
use super::output::{OutputStream, copy_output};
use super::port_watch::PortWatch;
use super::restart_policy::{NextStep, RestartPolicy, RunEnd};
use super::spec::{AttachedStdio, Spec, SupervisorContext, Wiring};
use super::tree::{ProcessTree, StopTimeouts};
use crate::env;
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
use tracing::{Instrument, Span};

/// How long a stdio server may take to end after its input was closed, before SIGTERM (MCP, "Shutdown").
const END_OF_INPUT_TIMEOUT: Duration = Duration::from_secs(1);
/// A process closes its pipes a moment before its end can be observed. One that lives longer has broken its session.
const EXIT_AFTER_CLOSE: Duration = Duration::from_millis(200);
/// How long the output of an ended run may take to be shown. A terminal may be suspended (Ctrl-S) without limit.
const LAST_OUTPUT: Duration = Duration::from_secs(1);
/// How many of its last lines are searched when a process crashed.
const SEARCHED_LINES: usize = 50;

/// The owner of one process.
pub(super) struct Actor {
    spec: Spec,
    context: SupervisorContext,
    policy: RestartPolicy,
    state: watch::Sender<vitals::ProcessVitals>,
    restart_requests: mpsc::Receiver<()>,
    stop: CancellationToken,
    kill: CancellationToken,
    /// The number of the current or last run, starting at 1.
    run: u64,
    /// The port that this run was assigned.
    port: Option<u16>,
}

/// One run of the process, and what is attached to it.
struct ProcessRun {
    child: Child,
    session: Option<Box<dyn AttachedStdio>>,
    ports: PortWatch,
    output: TaskTracker,
    ended: CancellationToken,
    span: Span,
}

impl Actor {
    pub(super) fn new(
        spec: Spec,
        context: SupervisorContext,
        state: watch::Sender<vitals::ProcessVitals>,
        restart_requests: mpsc::Receiver<()>,
        stop: CancellationToken,
        kill: CancellationToken,
    ) -> Self {
        let policy = RestartPolicy::new(spec.on_success, spec.backoff);
        Self { spec, context, policy, state, restart_requests, stop, kill, run: 0, port: None }
    }

    pub(super) async fn run(mut self) {
        let mut delay = Duration::ZERO;
        while self.wait(delay).await {
            let started = Instant::now();
            let end = self.run_once().await;
            let NextStep::Start(after) = self.policy.next(&end, started.elapsed(), random::bits()) else { break };
            delay = after;
            self.plan(&end, delay);
        }
        // What a slow terminal does not accept in this time is dropped.
        let _ = timeout(LAST_OUTPUT, self.context.log.flush()).await;
        self.publish(|state| {
            state.state = ProcessState::Ended;
            state.next_start = None;
        });
    }

    /// Waits for the next start. Returns `false` when the process must not be started any more.
    async fn wait(&mut self, delay: Duration) -> bool {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => return false,
            () = tokio::time::sleep(delay) => {}
            Some(()) = self.restart_requests.recv() => {}
        }
        // This start fulfils every request that was made until now.
        while self.restart_requests.try_recv().is_ok() {}
        true
    }

    /// Runs the process once, until its whole tree is gone.
    async fn run_once(&mut self) -> RunEnd {
        let mut run = match self.start() {
            Ok(run) => run,
            Err(error) => return self.not_started(&error),
        };
        let (pid, port) = (run.child.pid().as_raw_nonzero().get(), self.port);
        self.publish(|state| {
            state.state = ProcessState::Running;
            state.pid = Some(pid.cast_unsigned());
            state.given_port = port;
            state.next_start = None;
        });
        let span = run.span.clone();
        let until_gone = async {
            let end = self.watch(&mut run).await;
            self.publish(|state| state.state = ProcessState::Stopping);
            self.finish(run, &end).await;
            end
        };
        until_gone.instrument(span).await
    }

    fn start(&mut self) -> io::Result<ProcessRun> {
        let stdin = match self.spec.wiring {
            Wiring::Stdio(_) => Stdio::piped(),
            Wiring::Output | Wiring::Url(_) => Stdio::null(),
        };
        self.port = self.spec.port.next(&self.context.home)?;
        self.spec.program.set(env::PORT, self.port.map(|port| port.to_string().into()));
        let (child, pipes) = Child::start(&self.spec.program, stdin, &self.context.reaper)?;
        self.run += 1;
        self.context.log.note(&format!("{} started, pid {}", self.spec.name, child.pid()));
        let pid = child.pid().as_raw_nonzero().get();
        let span = tracing::info_span!("process_run", process = self.spec.name, pid, run = self.run);
        span.clone().in_scope(|| self.attach(child, pipes, span))
    }

    fn attach(&self, child: Child, pipes: Pipes, span: Span) -> io::Result<ProcessRun> {
        tracing::debug!(port = self.port, "started");
        let Pipes { stdin, mut stdout, stderr } = pipes;
        let log = &self.context.log;
        let session = match (&self.spec.wiring, stdin) {
            (Wiring::Stdio(stdio), Some(stdin)) => match stdout.take() {
                Some(stdout) => Some(stdio.attach(self.run, stdin, stdout, log.clone())?),
                None => None,
            },
            (Wiring::Url(server), _) => {
                server.publish(true, self.run);
                None
            }
            (Wiring::Output | Wiring::Stdio(_), _) => None,
        };
        let (output, ended) = (TaskTracker::new(), CancellationToken::new());
        for (pipe, stream) in [(stdout, OutputStream::Stdout), (stderr, OutputStream::Stderr)] {
            if let Some(pipe) = pipe {
                output.spawn(copy_output(pipe, stream, log.clone(), ended.clone()).in_current_span());
            }
        }
        let ports = PortWatch::start(child.pid(), &self.spec.program.owner, &self.context.reaper);
        Ok(ProcessRun { child, session, ports, output, ended, span })
    }

    /// Waits for whatever ends this run.
    async fn watch(&mut self, run: &mut ProcessRun) -> RunEnd {
        let ProcessRun { child, session, ports, .. } = run;
        let mut broken = std::pin::pin!(async {
            match session {
                Some(session) => session.broken().await,
                None => std::future::pending().await,
            }
        });
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return RunEnd::StopRequested,
                exit = child.exited() => return RunEnd::Exited(exit),
                Some(()) = self.restart_requests.recv() => return RunEnd::RestartRequested,
                why = broken.as_mut() => return match timeout(EXIT_AFTER_CLOSE, child.exited()).await {
                    Ok(exit) => RunEnd::Exited(exit),
                    Err(_) => RunEnd::SessionBroken(why),
                },
                ports = ports.changed() => self.on_ports(ports),
                () = panics::demanded("supervisor") => {}
            }
        }
    }

    fn on_ports(&self, ports: Vec<vitals::Port>) {
        let text: Vec<String> = ports.iter().map(|at| SocketAddr::new(at.address, at.port).to_string()).collect();
        let text = if text.is_empty() { "no port any more".to_owned() } else { text.join(", ") };
        self.context.log.note(&format!("{} listens on {text}", self.spec.name));
        self.publish(|state| state.ports = ports);
    }

    /// Ends what is attached, then the whole tree, and reaps the process.
    async fn finish(&mut self, run: ProcessRun, end: &RunEnd) {
        let ProcessRun { child, session, ports: _ports, output, ended, span: _ } = run;
        let after_term = self.spec.stop_timeout;
        let mut timeouts = StopTimeouts { before_term: Duration::ZERO, after_term };
        match (&self.spec.wiring, session) {
            (Wiring::Stdio(_), Some(session)) => {
                session.detach(end.to_string()).await;
                if matches!(end, RunEnd::RestartRequested | RunEnd::StopRequested) {
                    timeouts.before_term = END_OF_INPUT_TIMEOUT.min(after_term);
                }
            }
            (Wiring::Url(server), _) => server.publish(false, self.run),
            (Wiring::Output | Wiring::Stdio(_), _) => {}
        }
        let (owner, reaper) = (&self.spec.program.owner, &*self.context.reaper);
        ProcessTree::Supervised { leader: child.pid(), owner, reaper }.end(timeouts, &self.kill).await;
        ended.cancel();
        output.close();
        if timeout(LAST_OUTPUT, output.wait()).await.is_err() {
            tracing::debug!("the last output is dropped: the terminal does not accept it");
        }
        let how = match end {
            RunEnd::Exited(exit) => exit.to_string(),
            RunEnd::NotStarted(_) | RunEnd::SessionBroken(_) | RunEnd::RestartRequested | RunEnd::StopRequested => {
                // The leader has ended, like its whole tree.
                format!("{end} ({})", child.exited().await)
            }
        };
        child.reap();
        let how = self.with_port_owner(how, end);
        self.context.log.note(&format!("{} ended: {how}", self.spec.name));
        tracing::debug!(how, "ended");
        self.publish(|state| {
            state.pid = None;
            state.last_end = Some(how);
            state.given_port = None;
            state.ports = Vec::new();
        });
    }

    /// Adds which program holds the port that a failed run wanted: the one that it was assigned, or one that its output
    /// complains about. This blocks for some milliseconds, and only after a crash.
    fn with_port_owner(&self, how: String, end: &RunEnd) -> String {
        let owner = match end {
            RunEnd::Exited(ProcessExit::Code(code)) if *code != 0 => self.port_owner(),
            RunEnd::Exited(_)
            | RunEnd::NotStarted(_)
            | RunEnd::SessionBroken(_)
            | RunEnd::RestartRequested
            | RunEnd::StopRequested => None,
        };
        match owner {
            Some(owner) => format!("{how}; {owner}"),
            None => how,
        }
    }

    fn port_owner(&self) -> Option<String> {
        let SupervisorContext { home, log_file, .. } = &self.context;
        if let Some(assigned) = self.port.filter(|port| !assigned_port::is_free(*port)) {
            return Some(assigned_port::taken_by(home, assigned));
        }
        // Only the lines of this run count.
        let started = format!("{} started, pid", self.spec.name);
        let lines = tail(log_file, SEARCHED_LINES).ok()?;
        assigned_port::complained_about(home, lines.iter().rev().take_while(|line| !line.contains(&started)))
    }

    fn not_started(&mut self, error: &io::Error) -> RunEnd {
        let end = RunEnd::NotStarted(format!("it could not be started: {error}"));
        tracing::warn!(process = self.spec.name, %error, "a process could not be started");
        self.context.log.note(&format!("{}: {end}", self.spec.name));
        self.publish(|state| state.last_end = Some(end.to_string()));
        end
    }

    /// Publishes that the next run starts after this delay.
    fn plan(&self, end: &RunEnd, delay: Duration) {
        let crashes = match end {
            RunEnd::Exited(_) | RunEnd::NotStarted(_) | RunEnd::SessionBroken(_) => 1,
            RunEnd::RestartRequested | RunEnd::StopRequested => 0,
        };
        if !delay.is_zero() {
            self.context.log.note(&format!("{} starts again in {} ms", self.spec.name, delay.as_millis()));
        }
        self.publish(|state| {
            state.state = ProcessState::Waiting;
            state.restarts += crashes;
            state.next_start = Timestamp::now().checked_add(delay).ok();
        });
    }

    /// Changes the state and notifies all its readers.
    fn publish(&self, change: impl FnOnce(&mut vitals::ProcessVitals)) {
        self.state.send_modify(|state| {
            let before = state.state;
            change(state);
            if before != state.state {
                state.since = Timestamp::now();
            }
        });
        self.context.vitals.set_process(self.state.borrow().clone());
    }
}
