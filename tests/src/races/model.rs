//! The reference model: what a registry may answer, and who must be in it. It knows no file.
//!
//! A round is a set of steps, one for each worker, that happened at the same time. The model accepts every outcome that
//! some order of the steps could have, and no other. A name has at most one holder, who loses it only by unregistering,
//! by dying, or to another worker while its record was damaged.

use super::wire::{Answer, Order};
use linchpin_shared::problem::Code;
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// The number of a worker.
pub type Who = usize;

/// What one worker did in a round.
#[derive(Debug, Clone)]
pub struct Step {
    /// The worker.
    pub who: Who,
    /// Its order.
    pub order: Order,
    /// Its answer; `None` if it was killed before it answered.
    pub answer: Option<Answer>,
}

/// A registration that a worker holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The name.
    pub name: String,
    /// The generation of the owner.
    pub generation: Uuid,
    /// The port in its record.
    pub port: u16,
    /// Whether its record was damaged and not restored since, so that another may have taken its name.
    pub exposed: bool,
}

/// Who must be in the registry.
#[derive(Debug, Clone, Default)]
pub struct Model {
    held: BTreeMap<Who, Held>,
}

impl Model {
    /// The holder of each registration.
    #[must_use]
    pub const fn held(&self) -> &BTreeMap<Who, Held> {
        &self.held
    }

    /// Notes that the record of this worker was damaged.
    pub fn expose(&mut self, who: Who) {
        if let Some(held) = self.held.get_mut(&who) {
            held.exposed = true;
        }
    }

    /// Applies a round.
    ///
    /// # Errors
    /// The outcome that no order of these steps can explain.
    pub fn round(&mut self, steps: &[Step]) -> Result<(), String> {
        let before = self.held.clone();
        for step in steps {
            self.answered(step).map_err(|why| format!("{why}: {step:?}, held before: {:?}", before.get(&step.who)))?;
        }
        let registering = steps.iter().filter_map(|step| match &step.order {
            Order::Register { name, .. } => Some(name.as_str()),
            Order::Update { .. }
            | Order::Ensure
            | Order::Unregister
            | Order::LetGo
            | Order::Scan(_)
            | Order::Sweep
            | Order::Tidy
            | Order::Quarantine
            | Order::Lock => None,
        });
        for name in registering.collect::<BTreeSet<_>>() {
            self.contest(name, steps, &before)
                .map_err(|why| format!("{why}: {name:?} in {steps:?} after {before:?}"))?;
        }
        Ok(())
    }

    /// Checks a single answer, and applies what it changes.
    fn answered(&mut self, step: &Step) -> Result<(), String> {
        let Some(answer) = &step.answer else {
            self.held.remove(&step.who);
            return Ok(());
        };
        match (&step.order, answer) {
            (Order::Register { name, .. }, Answer::Registered { generation, .. }) => {
                let held = Held { name: name.clone(), generation: *generation, port: 1, exposed: false };
                self.held.insert(step.who, held);
            }
            (Order::Register { .. }, Answer::Refused { code: Code::NameTaken, .. }) => {}
            (Order::Update { port, .. }, Answer::Done) => self.change(step.who, |held| held.port = *port),
            (Order::Ensure, Answer::Done) => self.change(step.who, |_| ()),
            // This worker has lost the name; the end of the round shows whether another has it.
            (Order::Update { .. } | Order::Ensure, Answer::Refused { code: Code::NameTaken, .. })
                if self.held.get(&step.who).is_some_and(|held| held.exposed) => {}
            (Order::Unregister | Order::LetGo, Answer::Done) => {
                self.held.remove(&step.who);
            }
            (Order::Sweep | Order::Tidy | Order::Quarantine | Order::Lock, Answer::Done) => {}
            (Order::Scan(_), Answer::Read { torn, .. }) if torn.is_empty() => {}
            (_, _) => return Err(String::from("not an answer to this")),
        }
        Ok(())
    }

    fn change(&mut self, who: Who, change: impl FnOnce(&mut Held)) {
        if let Some(held) = self.held.get_mut(&who) {
            change(held);
            held.exposed = false;
        }
    }

    /// Checks who got a name that several wanted.
    fn contest(&self, name: &str, steps: &[Step], before: &BTreeMap<Who, Held>) -> Result<(), String> {
        let wants = |step: &&Step| matches!(&step.order, Order::Register { name: wanted, .. } if wanted == name);
        let winners = steps.iter().filter(wants).filter(|step| matches!(step.answer, Some(Answer::Registered { .. })));
        let killed = steps.iter().filter(wants).any(|step| step.answer.is_none());
        let holder = before.iter().find(|(_, held)| held.name == name);
        match (winners.count(), holder) {
            (0, None) if !killed => Err("a free name was given to no worker".into()),
            (0, _) => Ok(()),
            (1, None) => Ok(()),
            (1, Some((who, held))) if held.exposed || !self.held.contains_key(who) => Ok(()),
            (1, Some(_)) => Err("a held name was given to another worker".into()),
            (_, _) => Err("two workers received one name".into()),
        }
    }

    /// Ends a round: every holder was asked to restore its record, and these learned that another has their name. They
    /// hold nothing any more.
    ///
    /// # Errors
    /// If nobody else has the name.
    pub fn ousted(&mut self, told: &[Who]) -> Result<(), String> {
        for who in told {
            let Some(lost) = self.held.remove(who) else { continue };
            if !self.held.values().any(|held| held.name == lost.name) {
                return Err(format!("worker {who} was refused {:?}, which no worker holds", lost.name));
            }
        }
        let mut names = BTreeSet::new();
        match self.held.values().find(|held| !names.insert(&held.name)) {
            Some(held) => Err(format!("two workers hold {:?}: {:?}", held.name, self.held)),
            None => Ok(()),
        }
    }
}
