//! The first exchange on every connection: both sides prove that they know the secret of the record.
//!
//! A proof is an HMAC-SHA-256 (RFC 2104) with the secret as its key. It covers the role, both nonces, the id and the
//! generation of the instance, and the endpoint that was dialled, each preceded by its length. The endpoint is included so
//! that a program on another port cannot relay the exchange to the real instance. Proofs are compared in constant time,
//! and the secret itself is not sent.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use uuid::Uuid;

/// The first message of the hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The format that the hub speaks.
    pub format: u32,
    /// 32 random bytes of the hub in base64.
    pub nonce: String,
    /// The version of the hub.
    pub version: String,
}

/// The answer of the instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The format that the instance speaks.
    pub format: u32,
    /// 32 random bytes of the instance in base64.
    pub nonce: String,
    /// The proof of the instance.
    pub proof: String,
    /// The id of the instance.
    pub id: Uuid,
    /// The generation of the instance.
    pub generation: Uuid,
    /// The version of the instance.
    pub version: String,
    /// The abilities of the instance beyond format 1. Unknown words are ignored.
    #[serde(default)]
    pub capabilities: Vec<String>,
}

/// The second message of the hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// The proof of the hub.
    pub proof: String,
}

/// The side whose proof it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The proof of the hub.
    Hub,
    /// The proof of the instance.
    Instance,
}

/// The values of one exchange that both sides know, apart from the secret.
#[derive(Debug, Clone, Copy)]
pub struct Exchange<'a> {
    /// The nonce of the hub in base64.
    pub hub_nonce: &'a str,
    /// The nonce of the instance in base64.
    pub instance_nonce: &'a str,
    /// The id of the instance.
    pub id: Uuid,
    /// The generation of the instance.
    pub generation: Uuid,
    /// The endpoint of the record, for example `http://127.0.0.1:41873`.
    pub endpoint: &'a str,
}

impl Exchange<'_> {
    /// Computes the proof of one side in base64.
    #[must_use]
    pub fn prove(&self, role: Role, secret: &str) -> String {
        STANDARD.encode(self.mac(role, secret).finalize().into_bytes())
    }

    /// Whether `proof` is the proof of this side. The comparison takes constant time.
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
        // An HMAC accepts a key of any length (RFC 2104, section 2), so the key cannot be refused.
        #[expect(clippy::expect_used, reason = "an HMAC accepts keys of any length")]
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("any key length");
        for part in [role, self.hub_nonce, self.instance_nonce, &id, &generation, self.endpoint] {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part.as_bytes());
        }
        mac
    }
}

/// Creates a nonce or a secret: 32 random bytes of the system in base64.
///
/// # Errors
/// Fails if the system provides no random bytes.
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
