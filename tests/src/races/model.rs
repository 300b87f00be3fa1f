//! The reference: what a registry may answer, and who must be in it. Pure.
//!
//! Owns [`Model`]: who holds which name as which life. A round is a set of steps, one a worker, that were taken at the
//! same time; the model knows every outcome that some order of them could have, and refuses all others. Invariant: of a
//! name there is one holder at most; who holds one loses it only by leaving, by dying, or to another while its record
//! was damaged. Never: looks at a file.

use super::wire::{Answer, Order};
use linchpin_shared::problem::Code;
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// Which worker.
pub type Who = usize;

/// What one worker did in a round.
#[derive(Debug, Clone)]
pub struct Step {
    /// Which worker.
    pub who: Who,
    /// What it was told.
    pub order: Order,
    /// What it answered; `None` if it was killed meanwhile.
    pub answer: Option<Answer>,
}

/// A registration that a worker holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The name.
    pub name: String,
    /// Which life.
    pub generation: Uuid,
    /// The port in its record.
    pub port: u16,
    /// Its record was damaged and it has not looked after it since: another may have taken its name.
    pub exposed: bool,
}

/// Who must be in the registry.
#[derive(Debug, Clone, Default)]
pub struct Model {
    held: BTreeMap<Who, Held>,
}

impl Model {
    /// Who holds what.
    #[must_use]
    pub const fn held(&self) -> &BTreeMap<Who, Held> {
        &self.held
    }

    /// The record of this worker was damaged.
    pub fn expose(&mut self, who: Who) {
        if let Some(held) = self.held.get_mut(&who) {
            held.exposed = true;
        }
    }

    /// Takes note of a round.
    ///
    /// # Errors
    /// What no order of these steps can explain.
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

    /// One answer by itself, and what it changes.
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
            // Whether somebody has the name is seen at the end: this one has it no more.
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

    /// Who may have got a name that some wanted.
    fn contest(&self, name: &str, steps: &[Step], before: &BTreeMap<Who, Held>) -> Result<(), String> {
        let wants = |step: &&Step| matches!(&step.order, Order::Register { name: wanted, .. } if wanted == name);
        let winners = steps.iter().filter(wants).filter(|step| matches!(step.answer, Some(Answer::Registered { .. })));
        let killed = steps.iter().filter(wants).any(|step| step.answer.is_none());
        let holder = before.iter().find(|(_, held)| held.name == name);
        match (winners.count(), holder) {
            (0, None) if !killed => Err("nobody got a name that was free".into()),
            (0, _) => Ok(()),
            (1, None) => Ok(()),
            (1, Some((who, held))) if held.exposed || !self.held.contains_key(who) => Ok(()),
            (1, Some(_)) => Err("a name was given away that somebody holds".into()),
            (_, _) => Err("two got one name".into()),
        }
    }

    /// Ends a round: every holder was asked to look after its record, and these were told that another has their name.
    /// Returns whom that is true of; they hold nothing any more.
    ///
    /// # Errors
    /// When nobody else has the name.
    pub fn ousted(&mut self, told: &[Who]) -> Result<(), String> {
        for who in told {
            let Some(lost) = self.held.remove(who) else { continue };
            if !self.held.values().any(|held| held.name == lost.name) {
                return Err(format!("worker {who} was told that another has {:?}, and nobody does", lost.name));
            }
        }
        let mut names = BTreeSet::new();
        match self.held.values().find(|held| !names.insert(&held.name)) {
            Some(held) => Err(format!("two hold {:?}: {:?}", held.name, self.held)),
            None => Ok(()),
        }
    }
}
