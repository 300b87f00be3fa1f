//! How fast the hub notices instances: registration → routable, death → known, hub killed → routing again; and what
//! `linchpin status` costs.

use crate::proc;
use crate::stats::Samples;
use crate::wire::Wire;
use anyhow::{Context, Result, ensure};
use linchpin_shared::process::Signal;
use linchpin_tests::lab::running::Running;
use linchpin_tests::lab::{HubFacts, Lab};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;
use serde_json::Value;
use std::os::fd::OwnedFd;
use std::time::Duration;
use tokio::time::Instant;

/// The number of instances that are present all the time.
pub(crate) const CROWD: usize = 50;
/// The number of further instances that start and die, one after another.
const ROUNDS: usize = 100;
/// The pause between two of them: the hub dials at most 50 times a second in all, and this limit is not measured here.
/// Each instance costs up to two dials.
const PACE: Duration = Duration::from_millis(80);
/// How often the hub is killed and started again.
const HUBS: usize = 10;
/// How often `linchpin status` is run.
const LOOKS: usize = 50;
/// The number of instances that start and die where the hub only polls, and its default interval (`discovery.poll_ms`).
const UNHEARD: u32 = 40;
const POLL: Duration = Duration::from_secs(1);
/// The time after which a wait has failed.
const WITHIN: Duration = Duration::from_secs(10);

/// What was measured.
#[derive(Default)]
pub(crate) struct Presence {
    pub(crate) routable: Samples,
    pub(crate) known_dead: Samples,
    pub(crate) hub_back: Samples,
    pub(crate) status: Samples,
    pub(crate) hub_mib: f64,
}

/// The view of the hub, over one connection that is kept open.
struct View {
    wire: Wire,
}

impl View {
    async fn open(facts: &HubFacts) -> Result<Self> {
        Ok(Self { wire: Wire::connect(&facts.url, &facts.token).await? })
    }

    /// The state of one instance; `None` if the hub does not know it.
    async fn state(&mut self, name: &str) -> Result<Option<String>> {
        let (status, body) = self.wire.get(&format!("/v1/instances/{name}")).await?;
        if status == http::StatusCode::NOT_FOUND {
            return Ok(None);
        }
        ensure!(status.is_success(), "{status} {}", String::from_utf8_lossy(&body));
        let json: Value = serde_json::from_slice(&body)?;
        let state = json["state"].as_str().or_else(|| json["instance"]["state"].as_str());
        Ok(Some(state.with_context(|| format!("no state in {json}"))?.to_owned()))
    }

    /// Asks repeatedly, without a pause, until the state is as wanted.
    async fn until(&mut self, name: &str, wanted: impl Fn(Option<&str>) -> bool) -> Result<()> {
        let deadline = Instant::now() + WITHIN;
        loop {
            let state = self.state(name).await?;
            if wanted(state.as_deref()) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{name} is {state:?} after {WITHIN:?}");
        }
    }
}

/// Lets instances start and die beside many that stay, and then the hub. A hub runs at the end.
pub(crate) async fn run(lab: &Lab, mut hub: Running) -> Result<(Presence, Running)> {
    let mut presence = Presence::default();
    let mut crowd = Vec::new();
    for number in 0..CROWD {
        crowd.push(start(lab, &member(number))?);
    }
    let mut view = View::open(&lab.hub_facts()?).await?;
    all_there(&mut view).await?;
    presence.hub_mib = proc::resident_mib(hub.pid())?;
    let arrivals = Arrivals::watch(lab)?;
    for round in 0..ROUNDS {
        tokio::time::sleep(PACE).await;
        one_run(lab, &mut view, &arrivals, &format!("guest-{round}"), &mut presence).await?;
    }
    for _ in 0..LOOKS {
        let began = Instant::now();
        lab.verb(["status"]).await?.exits(0)?;
        presence.status.add(began.elapsed());
    }
    for _ in 0..HUBS {
        hub.kill_9().await?;
        let began = Instant::now();
        hub = lab.hub().await?;
        all_there(&mut View::open(&lab.hub_facts()?).await?).await?;
        presence.hub_back.add(began.elapsed());
    }
    for mut running in crowd {
        running.kill_9().await?;
    }
    Ok((presence, hub))
}

/// How long a registration takes to be routable where only polling finds it, at moments spread over the interval.
pub(crate) async fn polling(lab: &Lab) -> Result<Samples> {
    let _hub = polling_hub(lab).await?;
    let facts = lab.hub_facts()?;
    let mut view = View::open(&facts).await?;
    let (arrivals, mut presence) = (Arrivals::watch(lab)?, Presence::default());
    for round in 0..UNHEARD {
        tokio::time::sleep(PACE + POLL * round / UNHEARD).await;
        one_run(lab, &mut view, &arrivals, &format!("polling-{round}"), &mut presence).await?;
    }
    let (_, health) = Wire::connect(&facts.url, &facts.token).await?.get("/health").await?;
    let health: Value = serde_json::from_slice(&health)?;
    ensure!(health["checks"]["watch"] == "polling", "the hub received an event: {health}");
    Ok(presence.routable)
}

/// A hub without file watches: in a user namespace of its own, in which no file may be watched. (A preloaded library
/// would not work: the hub makes these system calls without libc.)
async fn polling_hub(lab: &Lab) -> Result<Running> {
    let mut command = lab.command("unshare");
    let script = "echo 0 > /proc/sys/user/max_inotify_instances && exec \"$0\" hub";
    command.args(["--user", "--map-root-user", "sh", "-c", script]).arg(lab.binary());
    let mut hub = Running::start(command, lab.dir().join("out/deaf-hub.log"))?;
    lab.hub_answers(Some(&mut hub)).await?;
    Ok(hub)
}

fn member(number: usize) -> String {
    format!("crowd-{number}")
}

fn start(lab: &Lab, name: &str) -> Result<Running> {
    lab.run_in_front(name, ["run", "--name", name, "--", "sleep", "1000"])
}

async fn all_there(view: &mut View) -> Result<()> {
    for number in 0..CROWD {
        view.until(&member(number), |state| state == Some("active")).await?;
    }
    Ok(())
}

async fn one_run(lab: &Lab, view: &mut View, arrivals: &Arrivals, name: &str, presence: &mut Presence) -> Result<()> {
    arrivals.forget()?;
    let mut guest = start(lab, name)?;
    arrivals.wait()?;
    let registered = Instant::now();
    view.until(name, |state| state == Some("active")).await?;
    presence.routable.add(registered.elapsed());

    let killed = Instant::now();
    guest.signal(Signal::KILL)?;
    view.until(name, |state| state != Some("active")).await?;
    presence.known_dead.add(killed.elapsed());
    guest.exit(WITHIN).await?;
    Ok(())
}

/// Sees a record appear at the moment of its rename, as the hub does, without polling on a machine with two cores.
struct Arrivals(OwnedFd);

impl Arrivals {
    fn watch(lab: &Lab) -> Result<Self> {
        let queue = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        inotify::add_watch(&queue, lab.home().join("instances"), inotify::WatchFlags::MOVED_TO)?;
        Ok(Self(queue))
    }

    /// Drops the events so far.
    fn forget(&self) -> Result<()> {
        let mut buffer = [0_u8; 4096];
        loop {
            match rustix::io::read(&self.0, &mut buffer) {
                Ok(_) => {}
                Err(rustix::io::Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn wait(&self) -> Result<()> {
        let limit = Timespec { tv_sec: 10, tv_nsec: 0 };
        let ready = poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&limit))?;
        ensure!(ready == 1, "no record appeared");
        Ok(())
    }
}
