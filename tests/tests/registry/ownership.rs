//! Who owns a record: reused pids, records of earlier boots, removed leases, stopped and killed holders of the lock,
//! and a file system without locks.

use anyhow::{Context, Result, bail, ensure};
use linchpin_shared::home::Home;
use linchpin_shared::problem::Code;
use linchpin_shared::process::{Identity, Signal};
use linchpin_shared::registry::{LeaseState, Owner, Registry, atomic};
use linchpin_tests::lab::Lab;
use linchpin_tests::lab::namespace::with_own_pids;
use linchpin_tests::lab::running::Running;
use linchpin_tests::races::wire::{self, Answer, Order};
use linchpin_tests::races::worker::Worker;
use linchpin_tests::{kit, preload};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

fn register(name: &str, project: &str) -> Order {
    Order::Register { name: name.into(), project: project.into(), fill: 10 }
}

/// An unrelated process, which ends with the test.
struct Stranger(Child);

impl Stranger {
    fn start() -> Result<Self> {
        Ok(Self(Command::new("sleep").arg("600").stdin(Stdio::null()).spawn()?))
    }

    /// A process with this pid, which must be free.
    fn with_pid(pid: u32) -> Result<Self> {
        for _ in 0..100 {
            std::fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string())?;
            let stranger = Self::start()?;
            if stranger.0.id() == pid {
                return Ok(stranger);
            }
        }
        bail!("no process received the pid {pid}")
    }

    fn lives(&mut self) -> Result<()> {
        ensure!(self.0.try_wait()?.is_none(), "the stranger was ended");
        Ok(())
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn prepared(lab: &Lab) -> Result<(Home, Registry)> {
    let home = Home::at(lab.home());
    home.prepare()?;
    let registry = Registry::new(&home);
    Ok((home, registry))
}

async fn swept(lab: &Lab, record: &Path) -> Result<()> {
    lab.wait_for("the record is swept", async || {
        ensure!(!record.exists());
        Ok(())
    })
    .await
}

/// Fault 14: an unrelated process has the pid of a dead instance, and then that of a dead hub. It is never taken for
/// them, and no verb, sweep or take-over signals it.
#[test]
fn reused_pid_is_neither_adopted_nor_signalled() -> Result<()> {
    with_own_pids("ownership::reused_pid_is_neither_adopted_nor_signalled", reused_pids)
}

async fn reused_pids() -> Result<()> {
    let lab = Lab::new()?;
    let (_, registry) = prepared(&lab)?;
    let mut worker = Worker::start(&lab.home())?;
    worker.does(&register("shop", "/project")).await?;
    let entry = registry.find_live("shop").context("not registered")?;
    let owner = entry.record.process.clone();
    let bytes = std::fs::read(&entry.path)?;
    worker.kill_9().await?;
    // A clock tick lasts 10 ms: two processes with one pid must differ in the tick of their start.
    tokio::time::sleep(Duration::from_millis(20)).await;
    let mut stranger = Stranger::with_pid(owner.pid)?;
    ensure!(Identity::of(owner.pid)?.start_ticks != owner.start_ticks);

    ensure!(registry.scan()?.entries[0].owner == Owner::Dead, "its lease is free");
    std::fs::remove_file(entry.path.with_extension("lease"))?;
    ensure!(
        registry.scan()?.entries[0].owner == Owner::Dead,
        "its lease is gone, and its pid belongs to another process"
    );
    ensure!(!owner.signal(Signal::KILL)?, "a signal was sent");
    lab.verb(["doctor", "--fix", "--json"]).await?;
    ensure!(!entry.path.exists(), "the doctor did not remove it");
    stranger.lives()?;

    atomic::write(&entry.path, &bytes)?;
    let run = ["run", "--name", "shop", "--take-over", "--detach", "--", "sleep", "1000"];
    lab.verb(run).await?.exits(0)?;
    stranger.lives().context("after a take-over")?;
    let hub = lab.hub().await?;
    lab.shows("shop", "the new one is connected", |instance| instance["state"] == "active").await?;
    lab.verb(["stop", "shop"]).await?.exits(0)?;
    stranger.lives().context("after a stop")?;

    hub_of_a_reused_pid(&lab, hub, &entry.path, &bytes).await?;
    stranger.lives()
}

/// The hub sweeps the record and dies, and an unrelated process gets its pid.
async fn hub_of_a_reused_pid(lab: &Lab, mut hub: Running, record: &Path, bytes: &[u8]) -> Result<()> {
    atomic::write(record, bytes)?;
    swept(lab, record).await?;
    hub.kill_9().await?;
    tokio::time::sleep(Duration::from_millis(20)).await;
    let mut instead = Stranger::with_pid(hub.pid())?;
    lab.verb(["hub", "stop"]).await?;
    lab.verb(["status"]).await?;
    instead.lives().context("it has the pid of the dead hub")?;
    let _hub = lab.hub().await?;
    instead.lives()
}

/// Faults 14, 23: the lease file of a live owner is removed. Neither that nor taking the new lease proves its death:
/// the record stays, the name is not free, and the owner takes a lease again.
#[tokio::test]
async fn removed_lease_file_does_not_prove_death() -> Result<()> {
    let lab = Lab::new()?;
    let (_, registry) = prepared(&lab)?;
    let (mut shop, mut other) = (Worker::start(&lab.home())?, Worker::start(&lab.home())?);
    shop.does(&register("shop", "/project")).await?;
    let entry = registry.find_live("shop").context("not registered")?;
    let lease = entry.path.with_extension("lease");
    std::fs::remove_file(&lease)?;
    other.does(&Order::Sweep).await?;
    ensure!(entry.path.exists() && !lease.exists(), "it was swept");
    for project in ["/project", "/elsewhere"] {
        let answer = other.ask(&register("shop", project)).await?;
        ensure!(matches!(answer, Answer::Refused { code: Code::NameTaken, .. }), "{project}: {answer:?}");
    }
    shop.does(&Order::Ensure).await?;
    ensure!(registry.lease(entry.record.id)? == LeaseState::Held, "it did not take a lease again");
    shop.kill_9().await?;
    other.does(&Order::Sweep).await?;
    ensure!(!entry.path.exists() && !lease.exists(), "its owner is dead");
    Ok(())
}

/// Fault 21: a record of an earlier boot names a pid that is in use and a port on which a program listens.
#[tokio::test]
async fn record_of_an_earlier_boot_is_swept_and_never_dialled() -> Result<()> {
    let lab = Lab::new()?;
    let (_, registry) = prepared(&lab)?;
    let mut stranger = Stranger::start()?;
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let mut record = wire::record("shop", "/project", 10)?;
    record.process = Identity { boot_id: String::from("an-earlier-boot"), ..Identity::of(stranger.0.id())? };
    record.endpoint = format!("http://{}", listener.local_addr()?);
    let path = registry.dir().join(format!("{}.json", record.id));
    let lease = path.with_extension("lease");
    let _hub = lab.hub().await?;
    for with_lease in [false, true] {
        if with_lease {
            atomic::write(&lease, b"")?;
        }
        atomic::write(&path, &serde_json::to_vec(&record)?)?;
        swept(&lab, &path).await?;
    }
    stranger.lives()?;
    let called = listener.accept().map(drop).map_err(|error| error.kind());
    ensure!(called == Err(std::io::ErrorKind::WouldBlock), "a connection was made: {called:?}");
    Ok(())
}

/// Fault 22: the holder of the directory lock is stopped. A writer is told in time, with the holder; readers do not
/// wait. Once the holder is killed, the lock is free.
#[tokio::test]
async fn stopped_lock_holder_is_named_and_blocks_no_reader() -> Result<()> {
    let lab = Lab::new()?;
    let (_, registry) = prepared(&lab)?;
    let mut shop = Worker::start(&lab.home())?;
    shop.does(&register("shop", "/project")).await?;
    let mut holder = Worker::start(&lab.home())?;
    holder.does(&Order::Lock).await?;
    let identity = Identity::of(holder.pid()?)?;
    ensure!(identity.signal(Signal::STOP)?);

    let mut other = Worker::start(&lab.home())?;
    other.tell(&register("other", "/project")).await?;
    let _hub = lab.hub().await.context("a hub starts all the same")?;
    lab.wait_for("the hub shows the living instances", async || lab.instance_status("shop").await.map(drop)).await?;
    ensure!(registry.find_live("shop").is_some());
    match other.answer().await? {
        Answer::Refused { code: Code::LockTimeout, detail } => {
            ensure!(detail.contains(&format!("pid: {}", identity.pid)), "{detail}");
            ensure!(detail.contains("registry-worker") && detail.contains("kill -CONT"), "{detail}");
        }
        answer @ (Answer::Refused { .. } | Answer::Registered { .. } | Answer::Done | Answer::Read { .. }) => {
            bail!("{answer:?}")
        }
    }

    other.tell(&register("other", "/project")).await?;
    holder.kill_9().await?;
    ensure!(matches!(other.answer().await?, Answer::Registered { .. }), "the kernel released the lock");
    Ok(())
}

/// On a file system without locks, pid and start ticks decide: a name has one owner, and dead records are swept.
#[tokio::test]
async fn process_identity_decides_without_file_locks() -> Result<()> {
    let lab = Lab::new()?;
    let (_, registry) = prepared(&lab)?;
    let library: PathBuf = preload::library("deny")?;
    let start = || -> Result<Worker> {
        let mut command = tokio::process::Command::new(kit::program("registry-worker")?);
        Worker::with(&lab.home(), command.env("LD_PRELOAD", &library).env("DENY", "flock"))
    };
    let (mut first, mut second, mut third) = (start()?, start()?, start()?);
    first.does(&register("shop", "/one")).await?;
    let record = registry.dir().join(format!("{}.json", wire::record("shop", "/one", 0)?.id));
    for project in ["/one", "/two"] {
        let answer = second.ask(&register("shop", project)).await?;
        ensure!(matches!(answer, Answer::Refused { code: Code::NameTaken, .. }), "{project}: {answer:?}");
    }
    third.does(&Order::Sweep).await?;
    ensure!(record.exists(), "its owner lives");
    std::fs::remove_file(&record)?;
    let answer = second.ask(&register("shop", "/one")).await?;
    ensure!(
        matches!(answer, Answer::Refused { code: Code::NameTaken, .. }),
        "the lease no longer names its owner: {answer:?}"
    );
    first.does(&Order::Ensure).await?;
    ensure!(record.exists(), "it wrote it again");
    first.kill_9().await?;
    third.does(&Order::Sweep).await?;
    ensure!(!record.exists(), "its owner is dead");
    second.does(&register("shop", "/one")).await.context("its name is free")?;
    second.does(&Order::Unregister).await?;
    ensure!(!record.exists());
    Ok(())
}
