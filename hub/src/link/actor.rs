//! The acting half of a link: does what the machine says and tells it what happened.
//!
//! Owns everything of one link that lives: the dial, the connection, the probe. Each state of being has one method, and
//! what may exist in that state is a local variable of it; leaving the method lets go of it.
//! Invariant: news from discovery, checks and questions are served in every state, also while dialling or waiting.
//! Never: decides. Whatever happens goes into [`Machine::handle`]; whatever is seen from outside comes out of it.

use super::dial::{self, Line};
use super::lane::Lane;
use super::limiter::Limiter;
use super::machine::{Dial, Effect, Input, Machine, Moment};
use super::status::{Status, Transition};
use super::{Numbers, vitals};
use jiff::Timestamp;
use linchpin_shared::failure::{Failure, Kind, Phase};
use linchpin_shared::protocol::path;
use linchpin_shared::registry::record::Record;
use parking_lot::Mutex;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout};
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
    pub(super) news: watch::Receiver<Presence>,
    pub(super) commands: mpsc::Receiver<Command>,
}

enum Letter {
    Cancelled,
    News(Presence),
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
    /// The way onto the connection, which is published while the machine lets requests pass.
    lane: Option<Lane>,
    probe_wanted: bool,
    over: bool,
}

/// A probe that may or may not be under way.
type ProbeUnderWay = Option<Pin<Box<dyn Future<Output = Input> + Send>>>;

impl Actor {
    pub(super) const fn new(machine: Machine, mail: Mail, published: Published, common: Arc<Common>) -> Self {
        Self { machine, mail, published, common, lane: None, probe_wanted: false, over: false }
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
    }

    /// Not connected, and nothing to do before the deadline: retrying, gone, or of a foreign protocol.
    async fn wait(&mut self) {
        tokio::select! {
            letter = self.mail.next() => self.read(letter),
            () = until(self.machine.deadline().map(|deadline| deadline.at)) => self.step(Input::Due),
        }
    }

    /// One dial is under way.
    async fn connect(&mut self, dial: Dial) -> Option<Line> {
        let mut attempt = Box::pin(dial_in_turn(Arc::clone(&self.common), Arc::clone(self.machine.record()), dial));
        while !self.over && self.machine.dialling() == Some(dial) {
            tokio::select! {
                letter = self.mail.next() => self.read(letter),
                result = &mut attempt => return self.dialled(result),
            }
        }
        None
    }

    fn dialled(&mut self, result: Result<Line, Failure>) -> Option<Line> {
        match result {
            Ok(line) => {
                self.lane = Some(line.lane().clone());
                self.step(Input::Connected(line.round_trip));
                Some(line)
            }
            Err(failure) => {
                self.step(Input::DialFailed(failure));
                None
            }
        }
    }

    /// One connection is held.
    async fn serve(&mut self, mut line: Line) {
        let number = self.machine.connection();
        let mut follow = Box::pin(vitals::follow(line.lane().clone(), self.published.vitals.clone()));
        let mut probe: ProbeUnderWay = None;
        while !self.over && number.is_some() && self.machine.connection() == number {
            if std::mem::take(&mut self.probe_wanted) {
                probe = Some(Box::pin(ask(line.lane().clone(), self.common.numbers.probe_timeout)));
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
        self.lane = None;
        self.probe_wanted = false;
        self.published.vitals.send_replace(None);
    }

    fn read(&mut self, letter: Letter) {
        match letter {
            Letter::Cancelled => self.over = true,
            Letter::News(Presence::Here(record)) => self.step(Input::Found(record)),
            Letter::News(Presence::Dead) => self.step(Input::OwnerDead),
            Letter::News(Presence::Unregistered) => self.step(Input::Unregistered),
            Letter::Command(Command::Check(why)) => self.step(Input::Check(why)),
            // Whoever asked may have gone; then nobody needs the answer.
            Letter::Command(Command::Transitions(reply)) => drop(reply.send(self.machine.history())),
        }
    }

    /// Lets the machine take one step, does what it says and publishes what it became.
    fn step(&mut self, input: Input) {
        let now = moment();
        let before = self.machine.status(now).state;
        for effect in self.machine.handle(input, now) {
            match effect {
                Effect::Probe => self.probe_wanted = true,
                Effect::Nudge => (self.common.nudge)(),
                Effect::Forget => self.over = true,
            }
        }
        let status = self.machine.status(now);
        // The lane is first: who reads `active` finds it open, and who finds it closed may still read `active`.
        let (lane_changed, to, why) = (self.publish_lane(), status.state.as_str(), &status.why);
        match (lane_changed, self.machine.passes()) {
            (true, true) => tracing::info!(why, "connected"),
            (true, false) => tracing::info!(why, "lost"),
            (false, _) if status.state == before => {}
            (false, _) => tracing::debug!(from = before.as_str(), to, why, "link"),
        }
        self.published.status.send_replace(Arc::new(status));
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
    Moment { at: Instant::now(), wall: Timestamp::now(), random }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

async fn dial_in_turn(common: Arc<Common>, record: Arc<Record>, dial: Dial) -> Result<Line, Failure> {
    if !dial.fresh {
        let turn = common.limiter.lock().reserve(Instant::now());
        sleep_until(turn).await;
    }
    dial::dial(&record, &common.numbers.dial).await
}

async fn answered(probe: &mut ProbeUnderWay) -> Input {
    match probe {
        Some(under_way) => {
            let answer = under_way.await;
            *probe = None;
            answer
        }
        None => std::future::pending().await,
    }
}

/// Asks the peer for a sign of life. `hyper` cannot change the pace of its PINGs on a living connection, so this is a
/// small request; whatever the peer answers, even a reset of the stream, shows that it lives.
async fn ask(lane: Lane, within: Duration) -> Input {
    let asked = Instant::now();
    match timeout(within, lane.get(path::VITALS)).await {
        Ok(Ok(_answer)) => Input::ProbeAnswered(asked.elapsed()),
        Ok(Err(error)) if error.failure.kind == Kind::StreamReset => Input::ProbeAnswered(asked.elapsed()),
        Ok(Err(error)) => Input::ProbeFailed(Failure { phase: Phase::Serve, ..error.failure }),
        Err(_elapsed) => {
            let late = format!("no answer to a probe within {within:?}");
            Input::ProbeFailed(Failure::new(Kind::PingTimeout, Phase::Serve).because(late).after(within))
        }
    }
}
