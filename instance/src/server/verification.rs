//! Whether the peer of a connection has proved that it knows the record's secret.
//!
//! The states of one connection are `unverified → challenged → verified`. A wrong proof leads back to unverified, so
//! every attempt needs a new nonce from us. A proof holds for the life of the connection on which it was given, and for
//! no other. The exchange itself is described in ARCHITECTURE.md, "Hub and instance".

use linchpin_shared::problem::{Code, Problem};
use linchpin_shared::protocol;
use linchpin_shared::protocol::hello::{Exchange, Hello, Proof, Role, Welcome};
use linchpin_shared::registry::record::Record;

/// The verification of the peer of one connection.
#[derive(Debug, Default)]
pub(super) enum Verification {
    /// The peer has sent no hello yet, or a wrong proof.
    #[default]
    Unverified,
    /// We answered a hello and wait for the proof.
    Challenged {
        /// The nonce that the peer chose.
        hub_nonce: String,
        /// The nonce that we chose.
        instance_nonce: String,
    },
    /// The peer knows the secret.
    Verified,
}

impl Verification {
    /// Whether the peer may use more than the hello exchange.
    pub(super) const fn is_verified(&self) -> bool {
        matches!(self, Self::Verified)
    }

    /// `unverified → challenged`: proves our own identity and gives the peer a nonce. A second hello starts over.
    pub(super) fn hello(&mut self, hello: Hello, record: &Record, nonce: String) -> Result<Welcome, Problem> {
        if hello.format != protocol::FORMAT {
            return Err(Problem::new(Code::VersionMismatch, "the hub uses another format")
                .seen("hub", hello.format)
                .seen("instance", protocol::FORMAT)
                .next("install the same version of linchpin everywhere, then restart the hub and this instance"));
        }
        let proof = exchange(record, &hello.nonce, &nonce).prove(Role::Instance, &record.secret);
        if !self.is_verified() {
            *self = Self::Challenged { hub_nonce: hello.nonce, instance_nonce: nonce.clone() };
        }
        Ok(Welcome {
            format: protocol::FORMAT,
            nonce,
            proof,
            id: record.id,
            generation: record.generation,
            version: record.version.clone(),
            capabilities: Vec::new(),
        })
    }

    /// `challenged → verified`, or back to `unverified`.
    pub(super) fn prove(&mut self, proof: &Proof, record: &Record) -> Result<(), Problem> {
        let (hub_nonce, instance_nonce) = match std::mem::take(self) {
            Self::Challenged { hub_nonce, instance_nonce } => (hub_nonce, instance_nonce),
            Self::Verified => {
                *self = Self::Verified;
                return Ok(());
            }
            Self::Unverified => {
                return Err(Problem::new(Code::BadRequest, "a proof must follow a hello on the same connection")
                    .next(format!("POST {} first", protocol::path::HELLO)));
            }
        };
        if !exchange(record, &hub_nonce, &instance_nonce).verify(Role::Hub, &record.secret, &proof.proof) {
            return Err(Problem::new(Code::Unauthorized, "the proof does not show that the peer knows the secret")
                .next("read the instance's record again: it may have been restarted"));
        }
        *self = Self::Verified;
        Ok(())
    }
}

fn exchange<'a>(record: &'a Record, hub_nonce: &'a str, instance_nonce: &'a str) -> Exchange<'a> {
    Exchange { hub_nonce, instance_nonce, id: record.id, generation: record.generation, endpoint: &record.endpoint }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn record() -> Record {
        let identity = json!({"pid": 1, "start_ticks": 1, "boot_id": "b", "executable": "/x"});
        let record = json!({
            "format": 1, "id": uuid::Uuid::nil(), "name": "shop", "generation": uuid::Uuid::max(), "secret": "s",
            "endpoint": "http://127.0.0.1:1", "protocol": "h2c", "process": identity, "project_dir": "/",
            "version": "1", "registered_at": "2026-11-20T10:00:00Z"
        });
        Record::parse(record.to_string().as_bytes()).unwrap()
    }

    fn hello() -> Hello {
        Hello { format: 1, nonce: "hub".into(), version: "1".into() }
    }

    fn proof(record: &Record, nonce: &str) -> Proof {
        Proof { proof: exchange(record, "hub", nonce).prove(Role::Hub, "s") }
    }

    #[test]
    fn a_peer_is_verified_after_hello_and_proof() {
        let (record, mut peer) = (record(), Verification::default());
        let welcome = peer.hello(hello(), &record, "ours".into()).unwrap();
        assert!(exchange(&record, "hub", &welcome.nonce).verify(Role::Instance, "s", &welcome.proof));
        assert!(!peer.is_verified());
        peer.prove(&proof(&record, "ours"), &record).unwrap();
        peer.hello(hello(), &record, "again".into()).unwrap();
        peer.prove(&proof(&record, "nothing"), &record).unwrap();
        assert!(peer.is_verified(), "a proof holds for the life of the connection");
    }

    #[test]
    fn a_wrong_proof_needs_a_new_hello() {
        let (record, mut peer) = (record(), Verification::default());
        peer.hello(hello(), &record, "ours".into()).unwrap();
        assert_eq!(peer.prove(&proof(&record, "other"), &record).unwrap_err().code, Code::Unauthorized);
        assert_eq!(peer.prove(&proof(&record, "ours"), &record).unwrap_err().code, Code::BadRequest);
        assert!(!peer.is_verified());
    }

    #[test]
    fn another_format_is_refused() {
        let problem =
            Verification::default().hello(Hello { format: 2, ..hello() }, &record(), "ours".into()).unwrap_err();
        assert_eq!(problem.code, Code::VersionMismatch);
    }
}
