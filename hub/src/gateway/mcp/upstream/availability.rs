//! Whether a server can be talked to, as its link and its instance's vitals show it.
//!
//! Owns [`Availability`] and [`ServerRun`], derived by pure functions from a [`LinkStatus`] and [`Vitals`].
//! Invariant: a life names everything that a session depends on (the instance's generation, the connection, the server's
//! epoch), so a session is good exactly as long as its life lasts.
//! Never: opens or asks anything.

use crate::link::failure::{Failure, FailureKind};
use crate::link::{LaunchState, LinkState, LinkStatus};
use linchpin_shared::protocol::vitals::{ProcessState, Transport, Vitals};
use uuid::Uuid;

/// What a session with a server depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ServerRun {
    /// Which life of the instance.
    pub(crate) generation: Uuid,
    /// Which connection to it.
    pub(crate) connection: u64,
    /// Which life of the server.
    pub(crate) epoch: u64,
}

/// Whether a server can be talked to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Availability {
    /// It can.
    Ready(ServerRun),
    /// Not now.
    Unavailable {
        /// Why, for people.
        why: String,
        /// Whether waiting a moment for it is probably in vain.
        likely_permanent: bool,
    },
    /// Its instance does not run, and is started on first use.
    Dormant(LaunchState),
    /// Its instance left, as far as can be seen by itself.
    Departed {
        /// Why, for people.
        why: String,
    },
}

/// What is known of an instance at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct InstanceView<'a> {
    /// Its link.
    pub(crate) status: &'a LinkStatus,
    /// What it says of itself.
    pub(crate) vitals: Option<&'a Vitals>,
    /// What had gone wrong last while it was not gone.
    pub(crate) before: Option<&'a Failure>,
}

impl InstanceView<'_> {
    /// The names of its servers, in its own order, and how each is reached.
    pub(crate) fn servers(&self) -> Vec<(String, Transport)> {
        match self.vitals {
            Some(vitals) => vitals.servers.iter().map(|server| (server.name.clone(), server.transport)).collect(),
            None => self.status.record.servers.iter().map(|server| (server.name.clone(), server.transport)).collect(),
        }
    }

    /// How one of its servers is.
    pub(crate) fn of(&self, server: &str) -> Availability {
        match self.status.state {
            LinkState::Active | LinkState::Suspect | LinkState::Draining => self.connected(server),
            LinkState::Discovered | LinkState::Connecting => self.away(false),
            LinkState::Retrying | LinkState::Tripped | LinkState::Unresponsive => self.away(true),
            LinkState::Dormant => Availability::Dormant(self.status.start.clone().unwrap_or(LaunchState::Idle)),
            LinkState::Gone if self.died() => self.away(true),
            LinkState::Gone => Availability::Departed { why: self.status.why.clone() },
        }
    }

    fn connected(&self, server: &str) -> Availability {
        let (Some(connection), Some(vitals)) = (&self.status.connection, self.vitals) else {
            return Availability::Unavailable {
                why: String::from("its instance has just connected"),
                likely_permanent: false,
            };
        };
        match vitals.servers.iter().find(|known| known.name == server) {
            Some(known) if known.up => Availability::Ready(ServerRun {
                generation: vitals.generation,
                connection: connection.number,
                epoch: known.epoch,
            }),
            Some(_) => Availability::Unavailable { why: process(vitals), likely_permanent: keeps_ending(vitals) },
            None => Availability::Unavailable {
                why: String::from("its instance does not offer it any more"),
                likely_permanent: true,
            },
        }
    }

    fn away(&self, likely_permanent: bool) -> Availability {
        let state = self.status.state.as_str();
        Availability::Unavailable { why: format!("its instance is {state}: {}", self.status.why), likely_permanent }
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

    fn availability(status: &LinkStatus, vitals: Option<&Vitals>) -> Availability {
        InstanceView { status, vitals, before: None }.of("files")
    }

    #[test]
    fn a_server_is_up_when_link_and_vitals_say_so() {
        let up = Availability::Ready(ServerRun { generation: Uuid::max(), connection: 3, epoch: 7 });
        for state in [LinkState::Active, LinkState::Suspect, LinkState::Draining] {
            assert_eq!(availability(&status(state), Some(&vitals(true))), up);
        }
        assert!(matches!(
            availability(&status(LinkState::Active), Some(&vitals(false))),
            Availability::Unavailable { likely_permanent: false, .. }
        ));
        assert!(matches!(
            availability(&status(LinkState::Active), None),
            Availability::Unavailable { likely_permanent: false, .. }
        ));
        assert!(matches!(
            availability(&status(LinkState::Connecting), None),
            Availability::Unavailable { likely_permanent: false, .. }
        ));
        assert!(matches!(
            availability(&status(LinkState::Retrying), Some(&vitals(true))),
            Availability::Unavailable { likely_permanent: true, .. }
        ));
    }

    #[test]
    fn a_dead_instance_may_come_back_and_one_that_left_does_not() {
        let mut gone = status(LinkState::Gone);
        assert!(matches!(availability(&gone, None), Availability::Departed { .. }));
        let death = Failure::new(FailureKind::ProcessGone, FailurePhase::Serve).because("process 4242 has ended");
        gone.last_failure = Some(death.clone());
        assert!(matches!(availability(&gone, None), Availability::Unavailable { .. }));
        let earlier = InstanceView { status: &gone, vitals: None, before: Some(&death) };
        assert!(matches!(earlier.of("files"), Availability::Departed { .. }), "that was an earlier death");
    }

    #[test]
    fn the_servers_are_the_records_until_the_instance_speaks() {
        let mut spoken = vitals(true);
        spoken.servers[0].name = String::from("other");
        let status = status(LinkState::Active);
        assert_eq!(
            InstanceView { status: &status, vitals: None, before: None }.servers(),
            [(String::from("files"), Transport::Stdio)]
        );
        assert_eq!(
            InstanceView { status: &status, vitals: Some(&spoken), before: None }.servers(),
            [(String::from("other"), Transport::Stdio)]
        );
    }
}
