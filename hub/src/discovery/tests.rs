//! Discovery with a real registry. Numbers in comments are rows of the fault catalogue.

use super::*;
use linchpin_shared::home::Home;
use linchpin_shared::process::Identity;
use linchpin_shared::registry::record::{Protocol, instance_id};
use linchpin_shared::registry::{Lease, Registration};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

mod places;
mod quarantine;

/// A poll that never comes within a test: what is seen was heard.
const NEVER: Times = Times { poll: Duration::from_secs(3600), stop: STOP };
/// A poll that comes soon.
const SOON: Times = Times { poll: Duration::from_millis(20), stop: STOP };
/// How long what was left may take to end.
const STOP: Duration = Duration::from_secs(1);
/// How long a condition may take to come about on a busy machine.
const LONG: Duration = Duration::from_secs(20);

pub(super) fn record(name: &str) -> Record {
    Record {
        format: 1,
        id: instance_id(Path::new("/project"), name),
        name: name.to_owned(),
        generation: Uuid::nil(),
        endpoint: String::from("http://127.0.0.1:41873"),
        protocol: Protocol::H2c,
        process: Identity::current().unwrap(),
        project_dir: PathBuf::from("/project"),
        version: String::from("0.1.0"),
        secret: String::from("c2VjcmV0"),
        services: Vec::new(),
        servers: Vec::new(),
        labels: BTreeMap::new(),
        registered_at: jiff::Timestamp::UNIX_EPOCH,
        other: serde_json::Map::new(),
    }
}

struct Lab {
    root: TempDir,
    home: Home,
    registry: Registry,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

impl Lab {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let home = Home::at(root.path().join("home"));
        home.prepare().unwrap();
        let registry = Registry::new(&home);
        Self { root, home, registry, tasks: TaskTracker::new(), cancel: CancellationToken::new() }
    }

    /// Discovery that hears, and never polls while the directory is there.
    async fn hearing(&self) -> Discovery {
        let discovery = Discovery::start(self.registry.clone(), NEVER, self.cancel.clone(), &self.tasks);
        // It hears from its first look on.
        let probe = self.register("probe").await;
        see(&discovery, "the probe", |snapshot| names(snapshot) == ["probe"]).await;
        probe.unregister().unwrap();
        see(&discovery, "nobody", |snapshot| snapshot.instances.is_empty()).await;
        discovery
    }

    /// Discovery that only polls.
    fn polling(&self) -> Discovery {
        let watching = Watching::off(self.registry.dir());
        Discovery::spawn(self.registry.clone(), SOON, watching, self.cancel.clone(), &self.tasks)
    }

    async fn register(&self, name: &str) -> Registration {
        let (registry, mut record) = (self.registry.clone(), record(name));
        record.generation = Uuid::now_v7();
        tokio::task::spawn_blocking(move || registry.register(record)).await.unwrap().unwrap()
    }

    /// Another process that registers `name`.
    fn start(&self, name: &str) -> Other {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "discovery::tests::child_that_registers", "--ignored", "--nocapture"])
            .env("LINCHPIN_HOME", self.home.root())
            .env("TEST_NAME", name)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains("REGISTERED")), "the child registers");
        Other(child)
    }

    fn record_file(&self, name: &str) -> PathBuf {
        self.registry.dir().join(format!("{}.json", record(name).id))
    }

    async fn end(self) {
        self.cancel.cancel();
        self.tasks.close();
        tokio::time::timeout(LONG, self.tasks.wait()).await.unwrap();
    }
}

/// Killed when dropped.
struct Other(Child);

impl Other {
    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs in the processes that [`Lab::start`] starts.
#[test]
#[ignore = "started by the other tests, in processes of their own"]
fn child_that_registers() {
    let registry = Registry::new(&Home::from_env().unwrap());
    let _registration = registry.register(record(&std::env::var("TEST_NAME").unwrap())).unwrap();
    println!("REGISTERED");
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

fn names(snapshot: &Snapshot) -> Vec<&str> {
    let mut names: Vec<_> = snapshot.instances.values().map(|found| found.record.name.as_str()).collect();
    names.sort_unstable();
    names
}

async fn see(discovery: &Discovery, what: &str, holds: impl Fn(&Snapshot) -> bool) -> Arc<Snapshot> {
    let mut snapshots = discovery.snapshot.clone();
    let seen = tokio::time::timeout(LONG, snapshots.wait_for(|snapshot| holds(snapshot))).await;
    match seen {
        Ok(seen) => Arc::clone(&seen.unwrap()),
        Err(_) => panic!("never seen: {what}; last: {:#?}", *discovery.snapshot.borrow()),
    }
}

#[tokio::test]
async fn coming_changing_and_going_is_heard() {
    let lab = Lab::new();
    let discovery = lab.hearing().await;
    let mut shop = lab.register("shop").await;
    let seen = see(&discovery, "shop", |snapshot| names(snapshot) == ["shop"]).await;
    assert_eq!(*seen.instances[&shop.record().id].record, *shop.record());
    shop.update(|record| record.endpoint = String::from("http://127.0.0.1:2")).unwrap();
    see(&discovery, "the change", |snapshot| {
        snapshot.instances.values().any(|found| found.record.endpoint.ends_with(":2"))
    })
    .await;
    shop.unregister().unwrap();
    see(&discovery, "nobody", |snapshot| snapshot.instances.is_empty()).await;
    lab.end().await;
}

/// 25: without any watch.
#[tokio::test]
async fn polling_alone_finds_it_all() {
    let lab = Lab::new();
    let discovery = lab.polling();
    let shop = lab.register("shop").await;
    see(&discovery, "shop", |snapshot| names(snapshot) == ["shop"]).await;
    let mut other = lab.start("other");
    see(&discovery, "other", |snapshot| names(snapshot) == ["other", "shop"]).await;
    other.kill();
    see(&discovery, "other gone", |snapshot| names(snapshot) == ["shop"]).await;
    shop.unregister().unwrap();
    see(&discovery, "nobody", |snapshot| snapshot.instances.is_empty()).await;
    lab.end().await;
}

/// 1: heard by the exit of the process alone.
#[tokio::test]
async fn a_killed_owner_is_shown_dead_then_swept() {
    let lab = Lab::new();
    let discovery = lab.hearing().await;
    let mut other = lab.start("shop");
    see(&discovery, "shop", |snapshot| names(snapshot) == ["shop"]).await;
    let lock = Lease::acquire(&lab.registry.dir().join(".lock"), LONG).unwrap().unwrap();
    other.kill();
    see(&discovery, "shop dead", |snapshot| snapshot.instances.values().any(|found| found.owner == Owner::Dead)).await;
    assert!(lab.record_file("shop").exists(), "nothing is swept while another holds the directory lock");
    let one_more = tokio::task::spawn_blocking({
        let registry = lab.registry.clone();
        move || registry.register(record("late"))
    });
    drop(lock);
    see(&discovery, "shop swept", |snapshot| names(snapshot) == ["late"]).await;
    assert!(!lab.record_file("shop").exists());
    drop(one_more.await.unwrap().unwrap());
    lab.end().await;
}

#[tokio::test]
async fn the_dead_of_earlier_days_are_swept_at_the_start() {
    let lab = Lab::new();
    drop(lab.register("shop").await);
    let _alive = lab.register("alive").await;
    let discovery = Discovery::start(lab.registry.clone(), NEVER, lab.cancel.clone(), &lab.tasks);
    see(&discovery, "only the living", |snapshot| names(snapshot) == ["alive"]).await;
    assert!(!lab.record_file("shop").exists());
    lab.end().await;
}

/// Every snapshot from now on, until it is asked for them.
fn recorded(discovery: &Discovery) -> impl Future<Output = Vec<Arc<Snapshot>>> + use<> {
    let mut snapshots = discovery.snapshot.clone();
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let task = tokio::spawn(async move {
        let mut all = Vec::new();
        loop {
            tokio::select! {
                _ = &mut stopped => return all,
                changed = snapshots.changed() => {
                    changed.unwrap();
                    all.push(Arc::clone(&snapshots.borrow_and_update()));
                }
            }
        }
    });
    async move {
        drop(stop);
        task.await.unwrap()
    }
}

/// 23: removed, or moved away. Who lives is never lost from sight, and what comes later is heard again.
#[tokio::test]
async fn a_lost_directory_loses_nobody() {
    for aside in [false, true] {
        let lab = Lab::new();
        let discovery = lab.hearing().await;
        let (mut shop, mut blog) = (lab.register("shop").await, lab.register("blog").await);
        see(&discovery, "both", |snapshot| names(snapshot) == ["blog", "shop"]).await;
        let all = recorded(&discovery);
        if aside {
            std::fs::rename(lab.registry.dir(), lab.root.path().join("aside")).unwrap();
        } else {
            std::fs::remove_dir_all(lab.registry.dir()).unwrap();
        }
        assert!(shop.ensure().unwrap());
        let late = lab.register("late").await;
        see(&discovery, "the one that came after", |snapshot| names(snapshot) == ["blog", "late", "shop"]).await;
        assert!(blog.ensure().unwrap());
        late.unregister().unwrap();
        see(&discovery, "the two again", |snapshot| names(snapshot) == ["blog", "shop"]).await;
        for snapshot in all.await {
            assert!(["blog", "shop"].iter().all(|name| names(&snapshot).contains(name)), "{snapshot:#?}");
        }
        blog.unregister().unwrap();
        see(&discovery, "one that came back goes", |snapshot| names(snapshot) == ["shop"]).await;
        lab.end().await;
    }
}

#[tokio::test]
async fn who_dies_with_the_directory_is_gone() {
    let lab = Lab::new();
    let discovery = lab.hearing().await;
    let mut other = lab.start("shop");
    see(&discovery, "shop", |snapshot| names(snapshot) == ["shop"]).await;
    std::fs::remove_dir_all(lab.registry.dir()).unwrap();
    other.kill();
    see(&discovery, "nobody", |snapshot| snapshot.instances.is_empty()).await;
    lab.end().await;
}

#[tokio::test]
async fn a_registry_that_is_made_later_is_found() {
    let lab = Lab::new();
    std::fs::remove_dir_all(lab.registry.dir()).unwrap();
    let discovery = Discovery::start(lab.registry.clone(), NEVER, lab.cancel.clone(), &lab.tasks);
    let _shop = lab.register("shop").await;
    see(&discovery, "shop", |snapshot| names(snapshot) == ["shop"]).await;
    lab.end().await;
}

/// 20: junk in the place of a live instance's record, and beside it.
#[tokio::test]
async fn junk_is_named_and_takes_nobody_away() {
    let lab = Lab::new();
    let discovery = lab.hearing().await;
    let mut shop = lab.register("shop").await;
    see(&discovery, "shop", |snapshot| names(snapshot) == ["shop"]).await;
    std::fs::write(lab.record_file("shop"), b"{\"format\":").unwrap();
    std::fs::write(lab.registry.dir().join("notes.json"), b"").unwrap();
    let seen = see(&discovery, "two files rejected", |snapshot| snapshot.rejected.len() == 2).await;
    assert_eq!(names(&seen), ["shop"]);
    assert!(shop.ensure().unwrap());
    let seen = see(&discovery, "one file rejected", |snapshot| snapshot.rejected.len() == 1).await;
    assert_eq!(names(&seen), ["shop"]);
    lab.end().await;
}

/// 32: a registry that cannot be read tells nothing.
#[tokio::test]
async fn an_unreadable_registry_loses_nobody() {
    let lab = Lab::new();
    let discovery = lab.hearing().await;
    let _shop = lab.register("shop").await;
    see(&discovery, "shop", |snapshot| names(snapshot) == ["shop"]).await;
    let aside = lab.root.path().join("aside");
    std::fs::rename(lab.registry.dir(), &aside).unwrap();
    std::fs::write(lab.registry.dir(), b"not a directory").unwrap();
    let all = recorded(&discovery);
    for _ in 0..3 {
        discovery.nudge();
        tokio::time::sleep(SOON.poll).await;
    }
    std::fs::remove_file(lab.registry.dir()).unwrap();
    std::fs::rename(&aside, lab.registry.dir()).unwrap();
    let _late = lab.register("late").await;
    see(&discovery, "the one that came after", |snapshot| names(snapshot) == ["late", "shop"]).await;
    assert!(all.await.iter().all(|snapshot| names(snapshot).contains(&"shop")));
    lab.end().await;
}

/// 24, in small: many at once, none missed.
#[tokio::test]
async fn a_crowd_is_seen_whole() {
    let lab = Lab::new();
    let discovery = lab.hearing().await;
    let mut crowd = Vec::new();
    for number in 0..200 {
        crowd.push(lab.register(&format!("i{number}")).await);
    }
    see(&discovery, "all", |snapshot| snapshot.instances.len() == 200).await;
    drop(crowd);
    discovery.nudge();
    see(&discovery, "nobody", |snapshot| snapshot.instances.is_empty()).await;
    lab.end().await;
}
