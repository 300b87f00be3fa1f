//! Supervised processes: started, watched, started again, stopped as whole trees.
//!
//! Owns [`Process`], the handle of one, behind which an [`actor`] lives; [`policy`] decides, [`child`] and [`tree`] act.
//! Invariant: one actor owns everything of a process; others read its state and leave orders. A process is `Ended` only
//! when nobody of its tree is left.
//! Never: says that a process stopped before the whole tree is gone, or starts one twice.

mod actor;
pub(crate) mod child;
mod listening;
pub(crate) mod mark;
pub(crate) mod output;
pub(crate) mod policy;
pub(crate) mod port;
pub(crate) mod reaper;
pub(crate) mod table;
pub(crate) mod tree;

pub use mark::{DETACHED, OWNER};

use crate::board::Board;
use crate::mcp::{proxy, stdio};
use child::Program;
use jiff::Timestamp;
use linchpin_shared::backoff;
use linchpin_shared::home::Home;
use linchpin_shared::protocol::vitals::{self, ProcessState};
use output::Log;
use policy::OnSuccess;
use port::Given;
use reaper::Reaper;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// What is attached to a process in each of its lives.
#[derive(Debug)]
pub(crate) enum Wiring {
    /// Nothing: its output is shown and kept.
    Output,
    /// Its standard input and output carry MCP.
    Stdio(stdio::Plug),
    /// It serves MCP at a URL.
    Url(proxy::Plug),
}

/// A process to supervise.
#[derive(Debug)]
pub(crate) struct Spec {
    /// Its name.
    pub(crate) name: String,
    /// What to start.
    pub(crate) program: Program,
    /// Which port it is given.
    pub(crate) port: Given,
    /// What to attach.
    pub(crate) wiring: Wiring,
    /// What exit code 0 means.
    pub(crate) on_success: OnSuccess,
    /// How long to wait between lives.
    pub(crate) backoff: backoff::Policy,
    /// How long it may take to end after SIGTERM.
    pub(crate) stop_timeout: Duration,
}

/// What a supervisor needs of its surroundings.
#[derive(Debug, Clone)]
pub(crate) struct Surroundings {
    /// Where to tell how the process is.
    pub(crate) board: Arc<Board>,
    /// Which children came to us.
    pub(crate) reaper: Arc<Reaper>,
    /// Where its output goes.
    pub(crate) log: Log,
    /// The file of that.
    pub(crate) log_file: PathBuf,
    /// Where to find out of whose port somebody has.
    pub(crate) home: Home,
}

/// The handle of a supervised process.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    name: Arc<str>,
    restart: mpsc::Sender<()>,
    state: watch::Receiver<vitals::Process>,
    stop: CancellationToken,
    hurry: CancellationToken,
}

impl Process {
    /// Starts to supervise. The first life begins in the background, at once.
    pub(crate) fn start(spec: Spec, surroundings: Surroundings) -> Self {
        let first = vitals::Process {
            name: spec.name.clone(),
            state: ProcessState::Waiting,
            pid: None,
            restarts: 0,
            since: Timestamp::now(),
            last_end: None,
            next_start: None,
            given_port: None,
            ports: Vec::new(),
        };
        surroundings.board.set_process(first.clone());
        let (restart, orders) = mpsc::channel(1);
        let state = watch::Sender::new(first);
        let process = Self {
            name: spec.name.as_str().into(),
            restart,
            state: state.subscribe(),
            stop: CancellationToken::new(),
            hurry: CancellationToken::new(),
        };
        let actor = actor::Actor::new(spec, surroundings, state, orders, process.stop.clone(), process.hurry.clone());
        tokio::spawn(actor.run());
        process
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// How it is.
    pub(crate) fn state(&self) -> vitals::Process {
        self.state.borrow().clone()
    }

    /// Reads how it is, now and at every change.
    pub(crate) fn watch(&self) -> watch::Receiver<vitals::Process> {
        self.state.clone()
    }

    /// Orders a restart. Orders that come while one is under way are one.
    pub(crate) fn restart(&self) {
        // A full queue holds the same order already; a closed one is that of a process that has ended.
        let _ = self.restart.try_send(());
    }

    /// Orders the end, whole tree.
    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }

    /// Ends all patience in stopping, now and later.
    pub(crate) fn hurry(&self) {
        self.hurry.cancel();
    }

    /// Waits until it has ended for good, and says how.
    pub(crate) async fn ended(&self) -> vitals::Process {
        let mut state = self.state.clone();
        // It fails only when the actor is gone, which is an end too.
        let _ = state.wait_for(|state| state.state == ProcessState::Ended).await;
        self.state()
    }
}
