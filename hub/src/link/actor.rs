//! The task of one link: it does what the machine says, and tells the machine what happened.
//!
//! The actor owns everything of the link that is alive: the dial, the connection and the probe. Each of them is a local
//! variable of the method for its stage, so leaving the method drops it. The inbox is served in every stage, also while
//! the link dials or waits. The actor decides nothing: every event goes into [`Machine::handle`], and everything that
//! other rooms see comes out of the machine.

use super::activity::LastRead;
use super::common::{LinkCommon, context_now};
use super::dial::LinkConnection;
use super::failure::Failure;
use super::inbox::{Inbox, Message};
use super::machine::{Context, DialAttempt, Effect, Input, Machine};
use super::metrics::LinkMeter;
use super::probe::{self, PendingProbe};
use super::request_sender::RequestSender;
use super::status::{LinkState, LinkStatus};
use super::vitals::{self, VitalsSender};
use linchpin_shared::registry::record::Record;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::{Instrument, Span};
use uuid::Uuid;

/// The sending ends of what a link publishes.
pub(super) struct Publishers {
    pub(super) status: watch::Sender<Arc<LinkStatus>>,
    pub(super) vitals: VitalsSender,
    pub(super) sender: watch::Sender<Option<RequestSender>>,
}

pub(super) struct LinkActor {
    machine: Machine,
    inbox: Inbox,
    publishers: Publishers,
    common: Arc<LinkCommon>,
    meter: Arc<LinkMeter>,
    /// The span of the present generation.
    span: Span,
    generation: Uuid,
    /// The sender of the present connection. It is published while the machine accepts requests.
    sender: Option<RequestSender>,
    /// The last read from the present connection, where it can be observed.
    last_read: Option<LastRead>,
    probe_wanted: bool,
    finished: bool,
}

impl LinkActor {
    pub(super) fn new(
        machine: Machine,
        inbox: Inbox,
        publishers: Publishers,
        common: Arc<LinkCommon>,
        meter: Arc<LinkMeter>,
    ) -> Self {
        let (span, generation) = (span_of(machine.record()), machine.record().generation);
        Self {
            machine,
            inbox,
            publishers,
            common,
            meter,
            span,
            generation,
            sender: None,
            last_read: None,
            probe_wanted: false,
            finished: false,
        }
    }

    /// Runs until the instance has been gone for long enough, or the hub ends.
    pub(super) async fn run(mut self) {
        while !self.finished {
            match self.machine.dial_attempt() {
                Some(attempt) => {
                    if let Some(connection) = self.connect(attempt).await {
                        self.serve(connection).await;
                    }
                }
                None => self.wait().await,
            }
        }
        self.publishers.sender.send_replace(None);
        self.meter.forget();
    }

    /// Waits for the next message or deadline without a dial and without a connection.
    async fn wait(&mut self) {
        tokio::select! {
            message = self.inbox.next() => self.on_message(message),
            () = until(self.machine.deadline().map(|deadline| deadline.at)) => self.step(Input::DeadlineReached),
        }
    }

    /// Dials, until the dial ends or the machine wants another one.
    async fn connect(&mut self, attempt: DialAttempt) -> Option<Box<LinkConnection>> {
        let (common, record, meter) =
            (Arc::clone(&self.common), Arc::clone(self.machine.record()), Arc::clone(&self.meter));
        let dial = probe::dial_when_allowed(common, record, attempt, meter).instrument(self.span.clone());
        let mut dial = Box::pin(dial);
        while !self.finished && self.machine.dial_attempt() == Some(attempt) {
            tokio::select! {
                message = self.inbox.next() => self.on_message(message),
                result = &mut dial => return self.dialled(result),
            }
        }
        None
    }

    fn dialled(&mut self, result: Result<LinkConnection, Failure>) -> Option<Box<LinkConnection>> {
        match result {
            Ok(connection) => {
                self.sender = Some(connection.sender().clone());
                self.step(Input::Connected(connection.round_trip));
                Some(Box::new(connection))
            }
            Err(failure) => {
                self.step(Input::DialFailed(failure));
                None
            }
        }
    }

    /// Holds a connection, until it ends or the machine gives it up.
    async fn serve(&mut self, mut connection: Box<LinkConnection>) {
        let number = self.machine.connection_number();
        let record = Arc::clone(self.machine.record());
        let vitals = vitals::follow(connection.sender().clone(), record, self.publishers.vitals.clone());
        let mut vitals = Box::pin(vitals.instrument(self.span.clone()));
        let mut probe: PendingProbe = None;
        self.last_read = connection.last_read();
        while !self.finished && number.is_some() && self.machine.connection_number() == number {
            if std::mem::take(&mut self.probe_wanted) {
                probe = Some(Box::pin(probe::send(connection.sender().clone(), self.machine.probe_timeout())));
            }
            tokio::select! {
                biased;
                failure = connection.closed() => self.step(Input::ConnectionLost(failure)),
                message = self.inbox.next() => self.on_message(message),
                outcome = probe::outcome(&mut probe) => self.step(outcome),
                () = until(self.machine.deadline().map(|deadline| deadline.at)) => self.step(Input::DeadlineReached),
                never = &mut vitals => match never {},
            }
        }
        (self.sender, self.last_read) = (None, None);
        self.probe_wanted = false;
        self.publishers.vitals.send_replace(None);
    }

    fn on_message(&mut self, message: Option<Message>) {
        match message {
            None => self.finished = true,
            Some(Message::Observed(inputs)) => inputs.into_iter().for_each(|input| self.step(input)),
            Some(Message::Check(why)) => self.step(Input::Check(why)),
            // A caller that is no longer there does not need the answer.
            Some(Message::History(reply)) => drop(reply.send(self.machine.history())),
        }
    }

    /// Lets the machine take one step, performs its effects, and publishes the result.
    fn step(&mut self, input: Input) {
        let is_deadline = matches!(input, Input::DeadlineReached);
        let may_give_up = matches!(input, Input::DeadlineReached | Input::ProbeFailed(_));
        let process_stopped = self.machine.needs_process_state(&input) && self.machine.record().process.is_stopped();
        let last_read = self.last_read.as_ref().map(LastRead::at);
        let context = Context { last_read, process_stopped, ..context_now() };
        self.count(&input);
        let revision = self.machine.revision();
        let effects = self.machine.handle(input, context);
        self.update_span();
        let given_up = may_give_up && self.machine.connection_number().is_none();
        if let Some(last_read) = self.last_read.as_ref().filter(|_| given_up) {
            // A connection that was given up for its silence does not end by itself.
            last_read.abort_connection();
        }
        for effect in effects {
            match effect {
                Effect::SendProbe => self.probe_wanted = true,
                Effect::RequestRescan => (self.common.request_rescan)(),
                Effect::Forget => self.finished = true,
            }
        }
        if self.machine.revision() != revision {
            self.publish(&Arc::new(self.machine.status(context)));
        } else if !is_deadline {
            // Only the health may have changed. Readers find the new value, but are not woken for it.
            self.publishers.status.send_if_modified(|published| {
                *published = Arc::new(self.machine.status(context));
                false
            });
        }
    }

    fn update_span(&mut self) {
        let record = self.machine.record();
        if record.generation != self.generation {
            (self.span, self.generation) = (span_of(record), record.generation);
        }
    }

    fn publish(&self, status: &Arc<LinkStatus>) {
        // The sender is published first. So a reader of `active` finds a sender; without one it may still read `active`.
        let (sender_changed, accepts_requests) = (self.publish_sender(), self.machine.accepts_requests());
        let before = self.publishers.status.send_replace(Arc::clone(status));
        self.meter.transition(&before, status, accepts_requests);
        let _entered = self.span.enter();
        let (from, to, why) = (before.state.as_str(), status.state.as_str(), &status.why);
        match (sender_changed, accepts_requests) {
            (true, true) => tracing::info!(from, to, why, "link connected"),
            (true, false) if status.state == LinkState::Unresponsive => {
                tracing::info!(from, to, why, "link unresponsive");
            }
            (true, false) => tracing::info!(from, to, why, "link lost"),
            (false, _) if from == to => {}
            (false, _) => tracing::debug!(from, to, why, "link state changed"),
        }
    }

    fn count(&self, input: &Input) {
        match input {
            Input::Connected(took) | Input::ProbeAnswered(took) => self.meter.round_trip(*took),
            Input::DialFailed(failure) | Input::ConnectionLost(failure) => self.meter.failed(failure),
            Input::Registered(_)
            | Input::Unregistered
            | Input::OwnerDead
            | Input::Declared(_)
            | Input::DeadlineReached
            | Input::ProbeFailed(_)
            | Input::Check(_) => {}
        }
    }

    /// Gives callers the sender while the machine accepts requests, and takes it away otherwise. Returns whether this
    /// changed anything.
    fn publish_sender(&self) -> bool {
        let sender = self.sender.as_ref().filter(|_| self.machine.accepts_requests());
        self.publishers.sender.send_if_modified(|published| {
            let changed = published.is_some() != sender.is_some();
            if changed {
                *published = sender.cloned();
            }
            changed
        })
    }
}

fn span_of(record: &Record) -> Span {
    tracing::info_span!("link", instance = record.name, generation = %record.generation)
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
