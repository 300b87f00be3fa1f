//! Who is at the other end of a connection.
//!
//! Owns the hello of one connection (DESIGN 4.2): `stranger → greeted → proved`. A proof that is wrong leads back to
//! stranger, so every attempt needs a new nonce of ours.
//! Invariant: [`Gate::is_proved`] holds only after the peer showed, on this very connection, that it knows the secret.
//! Never: opens for anything else, or closes again: a proof holds for the life of the connection.

use linchpin_shared::problem::{Code, Problem};
use linchpin_shared::protocol;
use linchpin_shared::protocol::hello::{Exchange, Hello, Proof, Role, Welcome};
use linchpin_shared::registry::record::Record;

/// The gate of one connection.
#[derive(Debug, Default)]
pub(crate) enum Gate {
    /// Nothing was said.
    #[default]
    Stranger,
    /// We answered a hello and wait for the proof.
    Greeted {
        /// The nonce of the peer.
        hub_nonce: String,
        /// Our own.
        instance_nonce: String,
    },
    /// The peer knows the secret.
    Proved,
}

impl Gate {
    /// Whether the peer may ask for more than a hello.
    pub(crate) const fn is_proved(&self) -> bool {
        matches!(self, Self::Proved)
    }

    /// `stranger → greeted`: proves who we are and hands out a nonce. Asked again, it begins anew.
    pub(crate) fn hello(&mut self, hello: Hello, us: &Record, nonce: String) -> Result<Welcome, Problem> {
        if hello.format != protocol::FORMAT {
            return Err(Problem::new(Code::VersionMismatch, "the hub speaks another format")
                .seen("hub", hello.format)
                .seen("instance", protocol::FORMAT)
                .next("install the same version of linchpin everywhere, then restart the hub and this instance"));
        }
        let proof = exchange(us, &hello.nonce, &nonce).prove(Role::Instance, &us.secret);
        if !self.is_proved() {
            *self = Self::Greeted { hub_nonce: hello.nonce, instance_nonce: nonce.clone() };
        }
        Ok(Welcome {
            format: protocol::FORMAT,
            nonce,
            proof,
            id: us.id,
            generation: us.generation,
            version: us.version.clone(),
            capabilities: Vec::new(),
        })
    }

    /// `greeted → proved`, or back to `stranger`.
    pub(crate) fn prove(&mut self, proof: &Proof, us: &Record) -> Result<(), Problem> {
        let (hub_nonce, instance_nonce) = match std::mem::take(self) {
            Self::Greeted { hub_nonce, instance_nonce } => (hub_nonce, instance_nonce),
            Self::Proved => {
                *self = Self::Proved;
                return Ok(());
            }
            Self::Stranger => {
                return Err(Problem::new(Code::BadRequest, "a proof needs a hello before it, on the same connection")
                    .next(format!("POST {} first", protocol::path::HELLO)));
            }
        };
        if !exchange(us, &hub_nonce, &instance_nonce).verify(Role::Hub, &us.secret, &proof.proof) {
            return Err(Problem::new(Code::Unauthorized, "the proof does not show that the peer knows the secret")
                .next("read the instance's record again: it may have been restarted"));
        }
        *self = Self::Proved;
        Ok(())
    }
}

fn exchange<'a>(us: &'a Record, hub_nonce: &'a str, instance_nonce: &'a str) -> Exchange<'a> {
    Exchange { hub_nonce, instance_nonce, id: us.id, generation: us.generation, endpoint: &us.endpoint }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn us() -> Record {
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

    fn proof(us: &Record, nonce: &str) -> Proof {
        Proof { proof: exchange(us, "hub", nonce).prove(Role::Hub, "s") }
    }

    #[test]
    fn opens_after_hello_and_proof() {
        let (us, mut gate) = (us(), Gate::default());
        let welcome = gate.hello(hello(), &us, "ours".into()).unwrap();
        assert!(exchange(&us, "hub", &welcome.nonce).verify(Role::Instance, "s", &welcome.proof));
        assert!(!gate.is_proved());
        gate.prove(&proof(&us, "ours"), &us).unwrap();
        gate.hello(hello(), &us, "again".into()).unwrap();
        gate.prove(&proof(&us, "nothing"), &us).unwrap();
        assert!(gate.is_proved(), "a proof holds for the life of the connection");
    }

    #[test]
    fn a_wrong_proof_needs_a_new_hello() {
        let (us, mut gate) = (us(), Gate::default());
        gate.hello(hello(), &us, "ours".into()).unwrap();
        assert_eq!(gate.prove(&proof(&us, "other"), &us).unwrap_err().code, Code::Unauthorized);
        assert_eq!(gate.prove(&proof(&us, "ours"), &us).unwrap_err().code, Code::BadRequest);
        assert!(!gate.is_proved());
    }

    #[test]
    fn another_format_is_refused() {
        let problem = Gate::default().hello(Hello { format: 2, ..hello() }, &us(), "ours".into()).unwrap_err();
        assert_eq!(problem.code, Code::VersionMismatch);
    }
}
