//! The hub's proof of its identity, which a client asks for before it sends the token.
//!
//! The address in `hub.json` may belong to another program by now. So a client first sends a nonce to [`PATH`], and the
//! answer is the HMAC-SHA-256 (RFC 2104) under the token of a purpose, the nonce and the dialled address, each preceded by
//! its length. With the address in it, a program on another port cannot relay the question to the real hub. An answer is
//! useful only to a client that knows the token already, so the route needs no token. Proofs are compared in constant time.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

/// The path of the route.
pub const PATH: &str = "/v1/proof";

/// The header of the nonce. A web page cannot send it to another site without a preflight request.
pub const NONCE: &str = "linchpin-nonce";

/// Separates this use of the token from the signatures of session ids.
const PURPOSE: &str = "linchpin hub proof 1";

/// The body of the answer.
#[derive(Debug, Serialize, Deserialize)]
pub struct ProofAnswer {
    /// The proof, base64.
    pub proof: String,
}

/// Proves that the program at this address knows the token.
#[must_use]
pub fn prove(token: &str, nonce: &str, url: &str) -> String {
    STANDARD.encode(mac(token, nonce, url).finalize().into_bytes())
}

/// Checks a proof.
#[must_use]
pub fn verify(token: &str, nonce: &str, url: &str, proof: &str) -> bool {
    STANDARD.decode(proof).is_ok_and(|proof| mac(token, nonce, url).verify_slice(&proof).is_ok())
}

fn mac(token: &str, nonce: &str, url: &str) -> Hmac<Sha256> {
    // An HMAC takes a key of any length (RFC 2104, section 2), so the key cannot be refused.
    #[expect(clippy::expect_used, reason = "a key of any length is taken")]
    let mut mac = Hmac::<Sha256>::new_from_slice(token.as_bytes()).expect("any key length");
    for part in [PURPOSE, nonce, url] {
        mac.update(&(part.len() as u64).to_be_bytes());
        mac.update(part.as_bytes());
    }
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_token_nonce_and_address_verify() {
        let proof = prove("token", "nonce", "http://127.0.0.1:1");
        assert!(verify("token", "nonce", "http://127.0.0.1:1", &proof));
        assert!(!verify("other", "nonce", "http://127.0.0.1:1", &proof), "another token");
        assert!(!verify("token", "again", "http://127.0.0.1:1", &proof), "replayed");
        assert!(!verify("token", "nonce", "http://127.0.0.1:2", &proof), "relayed");
        assert!(!verify("token", "nonce", "http://127.0.0.1:1", "not base64!"));
        assert!(!proof.contains("token"));
    }
}
