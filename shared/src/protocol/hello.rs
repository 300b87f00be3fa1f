//! The first exchange on every connection: both sides prove that they know the record's secret.
//!
//! Owns [`Hello`], [`Welcome`], [`Proof`] and the proof's arithmetic: HMAC-SHA-256 (RFC 2104) under the secret over
//! role, both nonces, instance id, generation and the endpoint that was dialled, each preceded by its length.
//! The endpoint is in it so that a program on another port cannot relay the exchange to the real instance.
//! Invariant: proofs are compared in constant time. Never: sends the secret.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use uuid::Uuid;

/// The hub's first message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The format the hub speaks.
    pub format: u32,
    /// 32 random bytes, base64.
    pub nonce: String,
    /// The hub's version.
    pub version: String,
}

/// The instance's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The format the instance speaks.
    pub format: u32,
    /// 32 random bytes of the instance, base64.
    pub nonce: String,
    /// The instance's proof.
    pub proof: String,
    /// Who answers.
    pub id: Uuid,
    /// Which life of it.
    pub generation: Uuid,
    /// The instance's version.
    pub version: String,
    /// What it can do beyond format 1; unknown words are ignored.
    #[serde(default)]
    pub capabilities: Vec<String>,
}

/// The hub's second message: its own proof.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// The hub's proof.
    pub proof: String,
}

/// Who proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The hub.
    Hub,
    /// The instance.
    Instance,
}

/// What both sides know of one exchange, apart from the secret.
#[derive(Debug, Clone, Copy)]
pub struct Exchange<'a> {
    /// The hub's nonce, as sent.
    pub hub_nonce: &'a str,
    /// The instance's nonce, as sent.
    pub instance_nonce: &'a str,
    /// The instance's id.
    pub id: Uuid,
    /// The instance's generation.
    pub generation: Uuid,
    /// The endpoint of the record, for example `http://127.0.0.1:41873`.
    pub endpoint: &'a str,
}

impl Exchange<'_> {
    /// The proof of one side, base64.
    #[must_use]
    pub fn prove(&self, role: Role, secret: &str) -> String {
        STANDARD.encode(self.mac(role, secret).finalize().into_bytes())
    }

    /// Whether `proof` is that side's, in constant time.
    #[must_use]
    pub fn verify(&self, role: Role, secret: &str, proof: &str) -> bool {
        STANDARD.decode(proof).is_ok_and(|proof| self.mac(role, secret).verify_slice(&proof).is_ok())
    }

    fn mac(&self, role: Role, secret: &str) -> Hmac<Sha256> {
        let role = match role {
            Role::Hub => "linchpin hub 1",
            Role::Instance => "linchpin instance 1",
        };
        let (id, generation) = (self.id.to_string(), self.generation.to_string());
        // An HMAC takes a key of any length (RFC 2104, section 2), so the key cannot be refused.
        #[expect(clippy::expect_used, reason = "a key of any length is taken")]
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("any key length");
        for part in [role, self.hub_nonce, self.instance_nonce, &id, &generation, self.endpoint] {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part.as_bytes());
        }
        mac
    }
}

/// 32 random bytes of the system, base64: a nonce or a secret.
///
/// # Errors
/// When the system has no randomness to give.
pub fn random() -> std::io::Result<String> {
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes).map_err(std::io::Error::from)?;
    Ok(STANDARD.encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exchange<'a>(endpoint: &'a str, hub_nonce: &'a str) -> Exchange<'a> {
        Exchange { hub_nonce, instance_nonce: "i", id: Uuid::nil(), generation: Uuid::max(), endpoint }
    }

    #[test]
    fn only_the_same_role_secret_nonce_and_endpoint_verify() {
        let here = exchange("http://127.0.0.1:1", "h");
        let proof = here.prove(Role::Instance, "secret");
        assert!(here.verify(Role::Instance, "secret", &proof));
        assert!(!here.verify(Role::Hub, "secret", &proof), "reflected");
        assert!(!here.verify(Role::Instance, "other", &proof), "wrong secret");
        assert!(!exchange("http://127.0.0.1:2", "h").verify(Role::Instance, "secret", &proof), "relayed");
        assert!(!exchange("http://127.0.0.1:1", "x").verify(Role::Instance, "secret", &proof), "replayed");
        assert!(!here.verify(Role::Instance, "secret", "not base64!"));
    }

    #[test]
    fn random_values_differ() {
        assert_ne!(random().unwrap(), random().unwrap());
    }
}
