//! Rounds of random actions by many workers, compared with the reference model.
//!
//! The driver chooses what the workers do, when they are killed, and which files are damaged in the meantime. The same
//! seed gives the same choices (what the kernel makes of them is never quite the same). After every round the registry
//! must contain exactly the live owners and no other file. After a failure nothing goes on, and the home is kept for
//! inspection.

use super::model::{Held, Model, Step, Who};
use super::rng::Rng;
use super::wire::{Answer, Order};
use super::worker::Worker;
use anyhow::{Context, Result, anyhow, bail, ensure};
use linchpin_shared::home::Home;
use linchpin_shared::problem::Code;
use linchpin_shared::registry::record::Record;
use linchpin_shared::registry::{Entry, Owner, Registry, Scan};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;
use tokio::time::Instant;
use uuid::Uuid;

const WORKERS: usize = 10;
const NAMES: [&str; 4] = ["alpha", "beta", "gamma", "delta"];
const PROJECTS: [&str; 2] = ["/one", "/two"];
/// Bytes of filling, so that some records fit into one write and some do not.
const FILLS: [usize; 4] = [0, 100, 5000, 100_000];
/// The latest moment of a round at which a worker is killed, in microseconds; most orders take less.
const KILLED_WITHIN: u64 = 4000;

/// Runs rounds with this seed until `enough` accepts their number, and returns that number.
///
/// # Errors
/// The first violation, with the seed, the round and the home.
pub async fn run(seed: u64, enough: impl Fn(u32) -> bool) -> Result<u32> {
    let mut race = Race::new(seed)?;
    let mut rounds = 0;
    while !enough(rounds) {
        if let Err(wrong) = race.round().await {
            let kept = race.dir.keep();
            return Err(wrong).with_context(|| format!("seed {seed}, round {rounds}; the home is {}", kept.display()));
        }
        rounds += 1;
    }
    Ok(rounds)
}

struct Race {
    dir: TempDir,
    home: Home,
    registry: Registry,
    workers: Vec<Worker>,
    model: Model,
    rng: Rng,
}

/// What happens to files between two rounds.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Damage {
    Nothing,
    /// The record of a holder is removed.
    NoRecord(Who),
    /// The record of a holder is overwritten.
    Junk(Who),
    /// The lease file of a holder is removed.
    NoLease(Who),
    /// A file that is not a record and belongs to no holder.
    Stray(Uuid),
    /// The directory is removed, or moved away.
    NoDirectory,
    Moved,
}

impl Race {
    fn new(seed: u64) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("linchpin-race-").tempdir()?;
        let home = Home::at(dir.path().join("home"));
        home.prepare()?;
        let workers = (0..WORKERS).map(|_| Worker::start(home.root())).collect::<Result<_>>()?;
        let registry = Registry::new(&home);
        Ok(Self { dir, home, registry, workers, model: Model::default(), rng: Rng::new(seed) })
    }

    async fn round(&mut self) -> Result<()> {
        let damage = self.choose_damage();
        let damaged = self.damage(&damage)?;
        let orders = self.choose_orders(&damage);
        let mut kills: Vec<(u64, Who)> = Vec::new();
        for who in orders.keys() {
            if self.rng.percent(12) {
                kills.push((self.rng.below(KILLED_WITHIN), *who));
            }
        }
        kills.sort_unstable();
        let steps = self.carry_out(&orders, &kills).await?;
        for step in &steps {
            if let Some(Answer::Read { rejected, .. }) = &step.answer {
                let torn: Vec<_> = rejected.iter().filter(|path| !damaged.contains(*path)).collect();
                ensure!(torn.is_empty(), "read as no record: {torn:?}; damage: {damage:?}, steps: {steps:?}");
            }
        }
        let context = || format!("damage: {damage:?}, killed: {kills:?}");
        self.model.round(&steps).map_err(|why| anyhow!(why)).with_context(context)?;
        self.settle().await.with_context(context)?;
        self.check().with_context(|| format!("{}, steps: {steps:#?}", context()))
    }

    fn choose_damage(&mut self) -> Damage {
        let holders: Vec<Who> = self.model.held().keys().copied().collect();
        let chance = self.rng.below(100);
        if holders.is_empty() || chance < 60 {
            return Damage::Nothing;
        }
        let who = *self.rng.one_of(&holders);
        match chance {
            60..70 => Damage::NoRecord(who),
            70..78 => Damage::Junk(who),
            78..86 => Damage::NoLease(who),
            86..94 => Damage::Stray(Uuid::from_u128(self.rng.next().into())),
            94..97 => Damage::NoDirectory,
            _ => Damage::Moved,
        }
    }

    /// Causes the damage, and returns the files that are not records because of it.
    fn damage(&mut self, damage: &Damage) -> Result<Vec<PathBuf>> {
        let dir = self.registry.dir().to_owned();
        let file = |who: &Who, model: &Model, end: &str| -> Result<PathBuf> {
            let held = model.held().get(who).context("no holder")?;
            let entry = self.registry.scan()?.entries.into_iter().find(|e| e.record.generation == held.generation);
            Ok(dir.join(format!("{}.{end}", entry.context("no such record")?.record.id)))
        };
        let all_workers: Vec<Who> = self.model.held().keys().copied().collect();
        match damage {
            Damage::Nothing => {}
            Damage::NoRecord(who) => {
                std::fs::remove_file(file(who, &self.model, "json")?)?;
                self.model.expose(*who);
            }
            Damage::Junk(who) => {
                let path = file(who, &self.model, "json")?;
                std::fs::write(&path, "{\"format\":1,")?;
                self.model.expose(*who);
                return Ok(vec![path]);
            }
            Damage::NoLease(who) => std::fs::remove_file(file(who, &self.model, "lease")?)?,
            Damage::Stray(id) => {
                let path = dir.join(format!("{id}.json"));
                std::fs::write(&path, "junk")?;
                std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
                return Ok(vec![path]);
            }
            Damage::NoDirectory => {
                std::fs::remove_dir_all(&dir)?;
                all_workers.into_iter().for_each(|who| self.model.expose(who));
            }
            Damage::Moved => {
                std::fs::rename(&dir, self.dir.path().join(format!("moved-{}", self.rng.next())))?;
                all_workers.into_iter().for_each(|who| self.model.expose(who));
            }
        }
        Ok(Vec::new())
    }

    fn choose_orders(&mut self, damage: &Damage) -> BTreeMap<Who, Order> {
        let gone = matches!(damage, Damage::NoDirectory | Damage::Moved);
        let victim = match damage {
            Damage::NoRecord(who) | Damage::Junk(who) | Damage::NoLease(who) => Some(*who),
            Damage::Nothing | Damage::Stray(_) | Damage::NoDirectory | Damage::Moved => None,
        };
        let mut orders = BTreeMap::new();
        for who in 0..WORKERS {
            let chance = self.rng.below(100);
            let (fill, port) = (*self.rng.one_of(&FILLS), 1024 + self.rng.below(60_000) as u16);
            let (name, project) = (*self.rng.one_of(&NAMES), *self.rng.one_of(&PROJECTS));
            let holds = self.model.held().contains_key(&who);
            let order = match chance {
                0..40 if !holds => Order::Register { name: name.into(), project: project.into(), fill },
                0..25 => Order::Update { port, fill },
                25..45 => Order::Ensure,
                45..60 if holds => Order::Unregister,
                // A live process without its lease file counts as the owner, so it must not just drop its registration.
                60..68 if holds && victim != Some(who) && !gone => Order::LetGo,
                68..76 if !gone => Order::Sweep,
                76..82 if !gone => Order::Tidy,
                82..86 if !gone => Order::Quarantine,
                86..94 => Order::Scan(10),
                _ => continue,
            };
            orders.insert(who, order);
        }
        orders
    }

    /// Gives all orders at once. A worker is killed at its moment, whether it has answered by then or not.
    async fn carry_out(&mut self, orders: &BTreeMap<Who, Order>, kills: &[(u64, Who)]) -> Result<Vec<Step>> {
        for (who, order) in orders {
            self.workers[*who].tell(order).await?;
        }
        let began = Instant::now();
        for (after, who) in kills {
            while began.elapsed() < Duration::from_micros(*after) {
                tokio::task::yield_now().await;
            }
            self.workers[*who].kill_9().await?;
        }
        let mut steps = Vec::new();
        for (who, order) in orders {
            let answer = if kills.iter().any(|(_, killed)| killed == who) {
                self.workers[*who] = Worker::start(self.home.root())?;
                None
            } else {
                Some(self.workers[*who].answer().await.with_context(|| format!("asked for {order:?}"))?)
            };
            steps.push(Step { who: *who, order: order.clone(), answer });
        }
        Ok(steps)
    }

    /// Does what happens where a hub runs: owners restore their records, and dead records are swept.
    async fn settle(&mut self) -> Result<()> {
        let mut ousted = Vec::new();
        for (who, held) in self.model.held().clone() {
            match self.workers[who].ask(&Order::Ensure).await? {
                Answer::Done => {}
                Answer::Refused { code: Code::NameTaken, .. } if held.exposed => {
                    self.workers[who].does(&Order::LetGo).await?;
                    ousted.push(who);
                }
                other @ (Answer::Refused { .. } | Answer::Registered { .. } | Answer::Read { .. }) => {
                    bail!("worker {who} holds {held:?} and was answered: {other:?}")
                }
            }
        }
        self.model.ousted(&ousted).map_err(|why| anyhow!(why))?;
        self.home.prepare()?;
        for order in [Order::Quarantine, Order::Sweep, Order::Tidy] {
            self.workers[0].does(&order).await?;
        }
        Ok(())
    }

    /// Checks that no live owner is missing, no dead one is left, and nothing is torn.
    fn check(&self) -> Result<()> {
        let scan = self.registry.scan()?;
        ensure!(scan.rejected.is_empty(), "not readable: {:?}", scan.rejected);
        let fact = |entry: &Entry| {
            let Record { name, generation, endpoint, .. } = &entry.record;
            (name.clone(), *generation, endpoint.clone(), entry.owner == Owner::Alive)
        };
        let held = |held: &Held| (held.name.clone(), held.generation, format!("http://127.0.0.1:{}", held.port), true);
        let seen: BTreeSet<_> = scan.entries.iter().map(fact).collect();
        let wanted: BTreeSet<_> = self.model.held().values().map(held).collect();
        ensure!(seen == wanted, "the registry shows\n{seen:#?}\nand should show\n{wanted:#?}");
        nothing_else(&self.home, &scan)
    }
}

/// Checks that the home contains only the files of the instances in a scan, and complete pairs in the quarantine.
///
/// # Errors
/// If there is another file.
pub fn nothing_else(home: &Home, scan: &Scan) -> Result<()> {
    let ids = scan.entries.iter().flat_map(|entry| ["json", "lease"].map(|end| format!("{}.{end}", entry.record.id)));
    let ours: BTreeSet<String> = ids.chain([".lock", ".names", "quarantine"].map(String::from)).collect();
    let left: Vec<_> = names(&home.instances())?.into_iter().filter(|name| !ours.contains(name)).collect();
    ensure!(left.is_empty(), "left in the registry: {left:?}");
    let aside = names(&home.instances().join("quarantine"))?;
    let pairs = aside.iter().filter(|name| aside.contains(&format!("{name}.why"))).count();
    ensure!(pairs * 2 == aside.len(), "not pairs of a file and its reason: {aside:?}");
    let above = names(home.root())?;
    ensure!(above.iter().all(|name| !name.starts_with('.')), "left in the home: {above:?}");
    Ok(())
}

fn names(dir: &Path) -> Result<Vec<String>> {
    dir.read_dir()?.map(|file| Ok(file?.file_name().to_string_lossy().into_owned())).collect()
}
