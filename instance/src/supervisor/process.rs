//! The handle of a supervised process.

use super::actor::Actor;
use super::spec::{Spec, SupervisorContext};
use jiff::Timestamp;
use linchpin_shared::protocol::vitals::{self, ProcessState};
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// A supervised process. Dropping the handle changes nothing: the process is supervised until it ends or is stopped.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    name: Arc<str>,
    restarts: mpsc::Sender<()>,
    state: watch::Receiver<vitals::ProcessVitals>,
    stop: CancellationToken,
    kill: CancellationToken,
}

impl Process {
    /// Starts to supervise. The first run starts in the background, at once.
    pub(crate) fn start(spec: Spec, context: SupervisorContext) -> Self {
        let first = vitals::ProcessVitals {
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
        context.vitals.set_process(first.clone());
        let (restarts, restart_requests) = mpsc::channel(1);
        let state = watch::Sender::new(first);
        let process = Self {
            name: spec.name.as_str().into(),
            restarts,
            state: state.subscribe(),
            stop: CancellationToken::new(),
            kill: CancellationToken::new(),
        };
        let actor = Actor::new(spec, context, state, restart_requests, process.stop.clone(), process.kill.clone());
        tokio::spawn(actor.run());
        process
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Returns its current state.
    pub(crate) fn state(&self) -> vitals::ProcessVitals {
        self.state.borrow().clone()
    }

    /// Subscribes to its state.
    pub(crate) fn subscribe(&self) -> watch::Receiver<vitals::ProcessVitals> {
        self.state.clone()
    }

    /// Requests a restart. Requests that arrive while one is pending are merged with it.
    pub(crate) fn restart(&self) {
        // A full queue holds the same request already; a closed one belongs to a process that has ended.
        let _ = self.restarts.try_send(());
    }

    /// Requests that the whole tree is stopped and not started again.
    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }

    /// Whenever the tree is being ended, now or later, kills it at once.
    pub(crate) fn kill(&self) {
        self.kill.cancel();
    }

    /// Waits until it has ended for good, and returns its last state.
    pub(crate) async fn ended(&self) -> vitals::ProcessVitals {
        let mut state = self.state.clone();
        // It fails only when the actor is gone, which is an end too.
        let _ = state.wait_for(|state| state.state == ProcessState::Ended).await;
        self.state()
    }
}
