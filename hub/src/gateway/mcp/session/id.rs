//! Session ids that prove by themselves that this hub, or an earlier life of it, gave them out.
//!
//! Owns the form `2.<version>.<abilities>.<random>.<proof>`: the proof is an HMAC-SHA-256 over all before it and the
//! scope, under a key that outlives the hub's process. So a session that a killed hub cannot remember is continued, not refused
//! (legacy clients never recover from a refused session), and a forged or moved id is an unknown one.
//! Invariant: proofs are compared in constant time. Never: tells why an id was not accepted.

use crate::gateway::mcp::catalog::scope::Scope;
use crate::gateway::mcp::protocol::capabilities::ClientCapabilities;
use crate::gateway::mcp::protocol::version::Version;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Longer ids than ours are not looked at.
const MAX_LEN: usize = 128;

/// What a `requestState` of ours begins with; a server's own passes untouched.
const STATE: &str = "linchpin.";

/// What signs session ids: 32 bytes derived from the hub's token, the same over restarts.
#[derive(Clone)]
pub struct SessionKey([u8; 32]);

impl SessionKey {
    /// The key that belongs to this token. Another purpose of the same token has another key.
    #[must_use]
    pub fn from_token(token: &str) -> Self {
        let mut mac = keyed(token.as_bytes());
        mac.update(b"linchpin mcp session ids 1");
        Self(mac.finalize().into_bytes().into())
    }

    /// A new id for a session of this version and scope, of a client that can do this.
    pub(crate) fn sign(
        &self,
        version: Version,
        capabilities: ClientCapabilities,
        scope: &Scope,
        random: [u8; 16],
    ) -> String {
        let body = format!("2.{}.{}.{}", version.as_str(), capabilities.code(), URL_SAFE_NO_PAD.encode(random));
        let proof = URL_SAFE_NO_PAD.encode(self.proof(&body, scope).finalize().into_bytes());
        format!("{body}.{proof}")
    }

    /// The version of the session that `id` names and what its client can do, if it was signed for this scope.
    pub(crate) fn verify(&self, id: &str, scope: &Scope) -> Option<(Version, ClientCapabilities)> {
        if id.len() > MAX_LEN {
            return None;
        }
        let (body, proof) = id.rsplit_once('.')?;
        let proof = URL_SAFE_NO_PAD.decode(proof).ok()?;
        self.proof(body, scope).verify_slice(&proof).ok()?;
        let mut parts = body.split('.').skip(1);
        Some((Version::parse(parts.next()?)?, ClientCapabilities::of_code(parts.next()?)?))
    }

    /// `name` as a `requestState` that only this hub can have given out.
    pub(crate) fn seal_state(&self, name: &str) -> String {
        let proof = URL_SAFE_NO_PAD.encode(self.state_proof(name).finalize().into_bytes());
        format!("{STATE}{name}.{proof}")
    }

    /// The name in a `requestState` of ours; none if it is another's.
    pub(crate) fn open_state<'s>(&self, state: &'s str) -> Option<&'s str> {
        let (name, proof) = state.strip_prefix(STATE)?.rsplit_once('.')?;
        let proof = URL_SAFE_NO_PAD.decode(proof).ok()?;
        self.state_proof(name).verify_slice(&proof).ok().map(|()| name)
    }

    /// What tells this hub, over all its lives, from another; it says nothing of the key.
    pub(crate) fn hub_name(&self) -> String {
        let mut mac = keyed(&self.0);
        mac.update(b"linchpin hub name 1");
        URL_SAFE_NO_PAD.encode(&mac.finalize().into_bytes()[..12])
    }

    /// What signs for another purpose than sessions.
    pub(crate) fn mac(&self, purpose: &str) -> Hmac<Sha256> {
        let mut mac = keyed(&self.0);
        mac.update(b"linchpin mcp ");
        mac.update(purpose.as_bytes());
        mac.update(b" 1\0");
        mac
    }

    fn state_proof(&self, name: &str) -> Hmac<Sha256> {
        let mut mac = keyed(&self.0);
        mac.update(b"linchpin mcp request state 1");
        mac.update(&[0]);
        mac.update(name.as_bytes());
        mac
    }

    fn proof(&self, body: &str, scope: &Scope) -> Hmac<Sha256> {
        let mut mac = keyed(&self.0);
        mac.update(body.as_bytes());
        mac.update(&[0]);
        mac.update(scope.to_string().as_bytes());
        mac
    }
}

impl std::fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SessionKey(…)")
    }
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    // An HMAC takes a key of any length (RFC 2104, section 2), so the key cannot be refused.
    #[expect(clippy::expect_used, reason = "a key of any length is taken")]
    Hmac::<Sha256>::new_from_slice(key).expect("any key length")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::mcp::catalog::scope::ScopePath;
    use proptest::prelude::*;

    #[test]
    fn an_id_is_good_for_its_key_and_scope_only() {
        let key = SessionKey::from_token("t");
        let shop = Scope::from(ScopePath::Instance("shop".into()));
        let id = key.sign(Version::V2025_06_18, ClientCapabilities::ALL, &shop, [7; 16]);
        assert_eq!(
            SessionKey::from_token("t").verify(&id, &shop),
            Some((Version::V2025_06_18, ClientCapabilities::ALL))
        );
        assert_eq!(key.verify(&id, &ScopePath::All.into()), None);
        assert_eq!(SessionKey::from_token("u").verify(&id, &shop), None);
        assert_eq!(key.verify(&id.replace("06-18", "11-25"), &shop), None);
        assert_eq!(key.verify(&id.replace(".ff.", ".00."), &shop), None);
        assert!(id.bytes().all(|byte| byte.is_ascii_graphic()) && id.len() <= MAX_LEN);
    }

    #[test]
    fn a_state_is_ours_or_anothers() {
        let key = SessionKey::from_token("t");
        let state = key.seal_state("abc");
        assert_eq!(key.open_state(&state), Some("abc"));
        assert_eq!(key.open_state(&state.replace("abc", "abd")), None);
        assert_eq!(SessionKey::from_token("u").open_state(&state), None);
        assert_eq!(key.open_state("rs1.x.y"), None);
    }

    proptest! {
        #[test]
        fn nothing_else_is_accepted(text in ".*", at in 0_usize..90, with: char) {
            let key = SessionKey::from_token("t");
            prop_assert_eq!(key.verify(&text, &ScopePath::All.into()), None);
            let good = key.sign(Version::LATEST, ClientCapabilities::NONE, &ScopePath::All.into(), [1; 16]);
            let mut forged: Vec<char> = good.chars().collect();
            let at = at % forged.len();
            forged[at] = with;
            let forged: String = forged.into_iter().collect();
            prop_assert_eq!(key.verify(&forged, &ScopePath::All.into()).is_some(), forged == good);
        }
    }
}
