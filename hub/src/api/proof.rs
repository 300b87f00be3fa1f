//! `GET /v1/proof`: the hub shows that it is the hub, before anybody sends it a token.
//!
//! Owns the proof: HMAC-SHA-256 (RFC 2104) under the token over a purpose, the asker's nonce and the address that was
//! dialled, each preceded by its length. The address is in it so that a program on another port cannot relay the question
//! to the real hub. Invariant: an answer helps nobody but who knows the token already, so the route needs none; proofs are
//! compared in constant time. Never: says the token, or anything else about the hub.

use super::{Api, reply};
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use linchpin_shared::problem::{Code, Problem};
use serde_json::json;
use sha2::Sha256;
use std::sync::Arc;

/// Where to ask.
pub const PATH: &str = "/v1/proof";

/// The header of the nonce. A web page may not send it to another site without asking first.
pub const NONCE: &str = "linchpin-nonce";

/// The longest nonce; ours are 44 letters.
const MAX_NONCE: usize = 128;

/// What the proof is for: the same token also signs session ids.
const PURPOSE: &str = "linchpin hub proof 1";

pub(super) async fn proof(State(api): State<Arc<Api>>, headers: HeaderMap) -> Response {
    let nonce = headers.get(NONCE).and_then(|nonce| nonce.to_str().ok()).filter(|nonce| nonce.len() <= MAX_NONCE);
    match nonce {
        Some(nonce) => reply::json(&json!({"proof": prove(&api.hub.token, nonce, &api.hub.url)})),
        None => reply::problem(
            &Problem::new(Code::BadRequest, format!("a proof needs the header {NONCE}"))
                .next("linchpin status    (asks for it and checks it)"),
        ),
    }
}

/// The proof that who listens at this address knows the token, base64.
#[must_use]
pub fn prove(token: &str, nonce: &str, url: &str) -> String {
    STANDARD.encode(mac(token, nonce, url).finalize().into_bytes())
}

/// Whether this is that proof.
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
