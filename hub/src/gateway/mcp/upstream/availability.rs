//! Whether a server can be talked to, as its link and its instance's vitals show it.
//!
//! Owns [`Outlook`] and [`Life`], derived by pure functions from a [`LinkStatus`] and [`Vitals`].
//! Invariant: a life names everything that a session depends on (the instance's generation, the connection, the server's
//! epoch), so a session is good exactly as long as its life lasts.
//! Never: opens or asks anything.

use crate::link::failure::{Failure, FailureKind};
use crate::link::{LaunchState, LinkState, LinkStatus};
use linchpin_shared::protocol::vitals::{ProcessState, Transport, Vitals};
use uuid::Uuid;

/// What a session with a server depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Life {
    /// Which life of the instance.
    pub(crate) generation: Uuid,
    /// Which connection to it.
    pub(crate) connection: u64,
    /// Which life of the server.
    pub(crate) epoch: u64,
}

/// Whether a server can be talked to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Outlook {
    /// It can.
    Up(Life),
    /// Not now.
    Away {
        /// Why, for people.
        why: String,
        /// Whether waiting a moment for it is probably in vain.
        settled: bool,
    },
    /// Its instance does not run, and is started on first use.
    Dormant(LaunchState),
    /// Its instance left, as far as can be seen by itself.
    Left {
        /// Why, for people.
        why: String,
    },
}

/// What is known of an instance at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sight<'a> {
    /// Its link.
    pub(crate) status: &'a LinkStatus,
    /// What it says of itself.
    pub(crate) vitals: Option<&'a Vitals>,
    /// What had gone wrong last while it was not gone.
    pub(crate) before: Option<&'a Failure>,
}

impl Sight<'_> {
    /// The names of its servers, in its own order, and how each is reached.
    pub(crate) fn servers(&self) -> Vec<(String, Transport)> {
        match self.vitals {
            Some(vitals) => vitals.servers.iter().map(|server| (server.name.clone(), server.transport)).collect(),
            None => self.status.record.servers.iter().map(|server| (server.name.clone(), server.transport)).collect(),
        }
    }

    /// How one of its servers is.
    pub(crate) fn of(&self, server: &str) -> Outlook {
        match self.status.state {
            LinkState::Active | LinkState::Suspect | LinkState::Draining => self.connected(server),
            LinkState::Discovered | LinkState::Connecting => self.away(false),
            LinkState::Retrying | LinkState::Tripped | LinkState::Unresponsive => self.away(true),
            LinkState::Dormant => Outlook::Dormant(self.status.start.clone().unwrap_or(LaunchState::Idle)),
            LinkState::Gone if self.died() => self.away(true),
            LinkState::Gone => Outlook::Left { why: self.status.why.clone() },
        }
    }

    fn connected(&self, server: &str) -> Outlook {
        let (Some(connection), Some(vitals)) = (&self.status.connection, self.vitals) else {
            return Outlook::Away { why: String::from("its instance has just connected"), settled: false };
        };
        match vitals.servers.iter().find(|known| known.name == server) {
            Some(known) if known.up => {
                Outlook::Up(Life { generation: vitals.generation, connection: connection.number, epoch: known.epoch })
            }
            Some(_) => Outlook::Away { why: process(vitals), settled: keeps_ending(vitals) },
            None => Outlook::Away { why: String::from("its instance does not offer it any more"), settled: true },
        }
    }

    fn away(&self, settled: bool) -> Outlook {
        let state = self.status.state.as_str();
        Outlook::Away { why: format!("its instance is {state}: {}", self.status.why), settled }
    }

    /// Whether the instance ended without saying so. The last failure stays in a status for good, so one that was there
    /// before tells nothing.
    fn died(&self) -> bool {
        let failure = self.status.last_failure.as_ref();
        failure.is_some_and(|failure| failure.kind == FailureKind::ProcessGone) && failure != self.before
    }
}

/// A process that ended so often in a row is not about to be well.
const IN_VAIN: u32 = 3;

/// Whether a server that is down because of its process will probably not be up in a moment.
fn keeps_ending(vitals: &Vitals) -> bool {
    vitals.processes.iter().any(|process| process.state == ProcessState::Waiting && process.restarts >= IN_VAIN)
}

/// What the processes of an instance with a server that is down are doing, for people.
fn process(vitals: &Vitals) -> String {
    let down = vitals.processes.iter().find(|process| process.state != ProcessState::Running);
    let Some(down) = down else { return String::from("its process is starting") };
    let mut text = match down.state {
        ProcessState::Waiting | ProcessState::Running => String::from("its process is restarting"),
        ProcessState::Stopping => String::from("its process is being stopped"),
        ProcessState::Ended => String::from("its process has ended for good"),
    };
    if let Some(end) = &down.last_end {
        text.push_str(&format!(", it ended with {end}"));
    }
    if let Some(at) = down.next_start {
        text.push_str(&format!(", next start at {at}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::{CheckupPolicy, Health};
    use crate::link::failure::FailurePhase;
    use crate::link::{BreakerStatus, ConnectionStatus};
    use jiff::Timestamp;
    use linchpin_shared::protocol::vitals::ServerVitals;
    use linchpin_shared::registry::record::Record;
    use serde_json::json;
    use std::sync::Arc;
    use std::time::Duration;

    fn status(state: LinkState) -> LinkStatus {
        let record = json!({
            "format": 1, "id": Uuid::nil(), "name": "shop", "generation": Uuid::max(),
            "endpoint": "http://127.0.0.1:41873", "protocol": "h2c",
            "process": {"pid": 4242, "start_ticks": 1, "boot_id": "b", "executable": "/x"},
            "project_dir": "/shop", "version": "0", "secret": "s", "registered_at": "2026-11-20T10:00:00Z",
            "servers": [{"name": "files", "transport": "stdio"}],
        });
        LinkStatus {
            record: Arc::new(serde_json::from_value::<Record>(record).unwrap()),
            state,
            since: Timestamp::UNIX_EPOCH,
            why: String::from("test"),
            last_failure: None,
            attempts: 0,
            next_try: None,
            connection: Some(ConnectionStatus { number: 3, since: Timestamp::UNIX_EPOCH, round_trip: Duration::ZERO }),
            connections: 3,
            dials: 3,
            breaker: BreakerStatus::Closed { failures: 0 },
            trips: 0,
            last_trip: None,
            health: Health::new(CheckupPolicy { base: Duration::ZERO, max: Duration::ZERO }).stats(),
            start: None,
        }
    }

    fn vitals(up: bool) -> Vitals {
        Vitals {
            format: 1,
            generation: Uuid::max(),
            started_at: Timestamp::UNIX_EPOCH,
            processes: Vec::new(),
            servers: vec![ServerVitals { name: String::from("files"), transport: Transport::Stdio, up, epoch: 7 }],
        }
    }

    fn outlook(status: &LinkStatus, vitals: Option<&Vitals>) -> Outlook {
        Sight { status, vitals, before: None }.of("files")
    }

    #[test]
    fn a_server_is_up_when_link_and_vitals_say_so() {
        let up = Outlook::Up(Life { generation: Uuid::max(), connection: 3, epoch: 7 });
        for state in [LinkState::Active, LinkState::Suspect, LinkState::Draining] {
            assert_eq!(outlook(&status(state), Some(&vitals(true))), up);
        }
        assert!(matches!(
            outlook(&status(LinkState::Active), Some(&vitals(false))),
            Outlook::Away { settled: false, .. }
        ));
        assert!(matches!(outlook(&status(LinkState::Active), None), Outlook::Away { settled: false, .. }));
        assert!(matches!(outlook(&status(LinkState::Connecting), None), Outlook::Away { settled: false, .. }));
        assert!(matches!(
            outlook(&status(LinkState::Retrying), Some(&vitals(true))),
            Outlook::Away { settled: true, .. }
        ));
    }

    #[test]
    fn a_dead_instance_may_come_back_and_one_that_left_does_not() {
        let mut gone = status(LinkState::Gone);
        assert!(matches!(outlook(&gone, None), Outlook::Left { .. }));
        let death = Failure::new(FailureKind::ProcessGone, FailurePhase::Serve).because("process 4242 has ended");
        gone.last_failure = Some(death.clone());
        assert!(matches!(outlook(&gone, None), Outlook::Away { .. }));
        let earlier = Sight { status: &gone, vitals: None, before: Some(&death) };
        assert!(matches!(earlier.of("files"), Outlook::Left { .. }), "that was an earlier death");
    }

    #[test]
    fn the_servers_are_the_records_until_the_instance_speaks() {
        let mut spoken = vitals(true);
        spoken.servers[0].name = String::from("other");
        let status = status(LinkState::Active);
        assert_eq!(
            Sight { status: &status, vitals: None, before: None }.servers(),
            [(String::from("files"), Transport::Stdio)]
        );
        assert_eq!(
            Sight { status: &status, vitals: Some(&spoken), before: None }.servers(),
            [(String::from("other"), Transport::Stdio)]
        );
    }
}
