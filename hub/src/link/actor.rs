//! The acting half of a link: does what the machine says and tells it what happened.
//!
//! Owns everything of one link that lives: the dial, the connection, the probe. Each state of being has one method, and
//! what may exist in that state is a local variable of it; leaving the method lets go of it.
//! Invariant: news from discovery, checks and questions are served in every state, also while dialling or waiting.
//! Never: decides. Whatever happens goes into [`Machine::handle`]; whatever is seen from outside comes out of it.

use super::dial::Line;
use super::hearing::Heard;
use super::lane::Lane;
use super::limiter::Limiter;
use super::machine::{Dial, Effect, Input, Machine, Moment};
use super::metrics::{Meter, Metrics};
use super::probe::{Probing, answered, ask, dial_in_turn};
use super::start::Start;
use super::status::{State, Status, Transition};
use super::{Numbers, vitals};
use jiff::Timestamp;
use linchpin_shared::failure::Failure;
use linchpin_shared::registry::record::Record;
use parking_lot::Mutex;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// What discovery says of one instance.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Presence {
    /// It is registered and its owner lives.
    Here(Arc<Record>),
    /// Its owner is proven dead.
    Dead,
    /// Its record is gone.
    Unregistered,
}

/// What is said of one instance: by discovery, and by the list of what is declared.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct News {
    pub(super) presence: Presence,
    /// What is known of starting it, if it is declared.
    pub(super) declared: Option<Start>,
}

/// What a handle asks of its link.
#[derive(Debug)]
pub(super) enum Command {
    Check(&'static str),
    Transitions(oneshot::Sender<Vec<Transition>>),
}

/// What all links have in common.
pub(super) struct Common {
    pub(super) numbers: Numbers,
    pub(super) limiter: Mutex<Limiter>,
    pub(super) metrics: Metrics,
    /// Asks discovery to look now.
    pub(super) nudge: Box<dyn Fn() + Send + Sync>,
}

/// Where a link's facts are published.
pub(super) struct Published {
    pub(super) status: watch::Sender<Arc<Status>>,
    pub(super) vitals: vitals::Publisher,
    pub(super) lane: watch::Sender<Option<Lane>>,
}

/// Everything that may reach a link from outside.
pub(super) struct Mail {
    pub(super) cancel: CancellationToken,
    pub(super) news: watch::Receiver<News>,
    pub(super) commands: mpsc::Receiver<Command>,
}

enum Letter {
    Cancelled,
    News(News),
    Command(Command),
}

impl Mail {
    /// The next letter. Nothing is lost when the future is dropped.
    async fn next(&mut self) -> Letter {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Letter::Cancelled,
            // Whoever gives the news has ended: so does the link.
            news = self.news.changed() => match news {
                Ok(()) => Letter::News(self.news.borrow_and_update().clone()),
                Err(_closed) => Letter::Cancelled,
            },
            Some(command) = self.commands.recv() => Letter::Command(command),
        }
    }
}

/// One link.
pub(super) struct Actor {
    pub(super) machine: Machine,
    pub(super) mail: Mail,
    pub(super) published: Published,
    pub(super) common: Arc<Common>,
    meter: Arc<Meter>,
    /// The way onto the connection, which is published while the machine lets requests pass.
    lane: Option<Lane>,
    /// When something came over the connection last.
    heard: Option<Heard>,
    probe_wanted: bool,
    over: bool,
}

impl Actor {
    pub(super) const fn new(
        machine: Machine,
        mail: Mail,
        published: Published,
        common: Arc<Common>,
        meter: Arc<Meter>,
    ) -> Self {
        Self { machine, mail, published, common, meter, lane: None, heard: None, probe_wanted: false, over: false }
    }

    /// Runs until the instance is gone for long enough, or the hub ends.
    pub(super) async fn run(mut self) {
        while !self.over {
            match self.machine.dialling() {
                Some(dial) => {
                    if let Some(line) = self.connect(dial).await {
                        self.serve(line).await;
                    }
                }
                None => self.wait().await,
            }
        }
        self.published.lane.send_replace(None);
        self.meter.forget();
    }

    /// Not connected, and nothing to do before the deadline: retrying or gone.
    async fn wait(&mut self) {
        tokio::select! {
            letter = self.mail.next() => self.read(letter),
            () = until(self.machine.deadline().map(|deadline| deadline.at)) => self.step(Input::Due),
        }
    }

    /// One dial is under way.
    async fn connect(&mut self, dial: Dial) -> Option<Box<Line>> {
        let (common, record, meter) =
            (Arc::clone(&self.common), Arc::clone(self.machine.record()), Arc::clone(&self.meter));
        let mut attempt = Box::pin(dial_in_turn(common, record, dial, meter));
        while !self.over && self.machine.dialling() == Some(dial) {
            tokio::select! {
                letter = self.mail.next() => self.read(letter),
                result = &mut attempt => return self.dialled(result),
            }
        }
        None
    }

    fn dialled(&mut self, result: Result<Line, Failure>) -> Option<Box<Line>> {
        match result {
            Ok(line) => {
                self.lane = Some(line.lane().clone());
                self.step(Input::Connected(line.round_trip));
                Some(Box::new(line))
            }
            Err(failure) => {
                self.step(Input::DialFailed(failure));
                None
            }
        }
    }

    /// One connection is held.
    async fn serve(&mut self, mut line: Box<Line>) {
        let number = self.machine.connection();
        let record = Arc::clone(self.machine.record());
        let mut follow = Box::pin(vitals::follow(line.lane().clone(), record, self.published.vitals.clone()));
        let mut probe: Probing = None;
        self.heard = line.heard();
        while !self.over && number.is_some() && self.machine.connection() == number {
            if std::mem::take(&mut self.probe_wanted) {
                probe = Some(Box::pin(ask(line.lane().clone(), self.machine.probe_timeout())));
            }
            tokio::select! {
                biased;
                failure = line.ended() => self.step(Input::Lost(failure)),
                letter = self.mail.next() => self.read(letter),
                answer = answered(&mut probe) => self.step(answer),
                () = until(self.machine.deadline().map(|deadline| deadline.at)) => self.step(Input::Due),
                never = &mut follow => match never {},
            }
        }
        (self.lane, self.heard) = (None, None);
        self.probe_wanted = false;
        self.published.vitals.send_replace(None);
    }

    fn read(&mut self, letter: Letter) {
        match letter {
            Letter::Cancelled => self.over = true,
            Letter::News(News { presence, declared }) => {
                self.step(Input::Declared(declared));
                self.step(match presence {
                    Presence::Here(record) => Input::Found(record),
                    Presence::Dead => Input::OwnerDead,
                    Presence::Unregistered => Input::Unregistered,
                });
            }
            Letter::Command(Command::Check(why)) => self.step(Input::Check(why)),
            // Whoever asked may have gone; then nobody needs the answer.
            Letter::Command(Command::Transitions(reply)) => drop(reply.send(self.machine.history())),
        }
    }

    /// Lets the machine take one step, does what it says and publishes what it became.
    fn step(&mut self, input: Input) {
        let quiet = matches!(input, Input::Due);
        let doubt = matches!(input, Input::Due | Input::ProbeFailed(_));
        let stopped = self.machine.wonders(&input) && self.machine.record().process.is_stopped();
        let now = Moment { heard: self.heard.as_ref().map(Heard::last), stopped, ..moment() };
        self.count(&input);
        let revision = self.machine.revision();
        let effects = self.machine.handle(input, now);
        if let Some(heard) = self.heard.as_ref().filter(|_| doubt && self.machine.connection().is_none()) {
            // It was given up for its silence, so it will not end by itself.
            heard.cut();
        }
        for effect in effects {
            match effect {
                Effect::Probe => self.probe_wanted = true,
                Effect::Nudge => (self.common.nudge)(),
                Effect::Forget => self.over = true,
            }
        }
        if self.machine.revision() != revision {
            self.publish(&Arc::new(self.machine.status(now)));
        } else if !quiet {
            // Its health alone changed. Whoever asks sees it; it wakes nobody.
            self.published.status.send_if_modified(|published| {
                *published = Arc::new(self.machine.status(now));
                false
            });
        }
    }

    fn publish(&self, status: &Arc<Status>) {
        // The lane is first: who reads `active` finds it open, and who finds it closed may still read `active`.
        let (lane_changed, passes) = (self.publish_lane(), self.machine.passes());
        let before = self.published.status.send_replace(Arc::clone(status));
        self.meter.stepped(&before, status, passes);
        let (to, why) = (status.state.as_str(), &status.why);
        match (lane_changed, passes) {
            (true, true) => tracing::info!(why, "connected"),
            (true, false) if status.state == State::Unresponsive => tracing::info!(why, "unresponsive"),
            (true, false) => tracing::info!(why, "lost"),
            (false, _) if status.state == before.state => {}
            (false, _) => tracing::debug!(from = before.state.as_str(), to, why, "link"),
        }
    }

    fn count(&self, input: &Input) {
        match input {
            Input::Connected(took) | Input::ProbeAnswered(took) => self.meter.round_trip(*took),
            Input::DialFailed(failure) | Input::Lost(failure) => self.meter.failed(failure),
            Input::Found(_)
            | Input::Unregistered
            | Input::OwnerDead
            | Input::Declared(_)
            | Input::Due
            | Input::ProbeFailed(_)
            | Input::Check(_) => {}
        }
    }

    /// Opens or closes the lane for callers. Says whether it did.
    fn publish_lane(&self) -> bool {
        let lane = self.lane.as_ref().filter(|_| self.machine.passes());
        self.published.lane.send_if_modified(|published| {
            let changed = published.is_some() != lane.is_some();
            if changed {
                *published = lane.cloned();
            }
            changed
        })
    }
}

/// The time, and randomness for one step.
pub(super) fn moment() -> Moment {
    // Without randomness from the system the jitter is lost, and nothing else.
    let random = getrandom::u64().unwrap_or(u64::MAX / 2);
    Moment { at: Instant::now(), wall: Timestamp::now(), random, heard: None, stopped: false }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
