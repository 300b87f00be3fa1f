//! How a client names a task.
//!
//! Owns the form `task.<what>.<proof>`: instance, server and the server's own name of the task, and an HMAC-SHA-256 over
//! them and the owner, under the key of the session ids. So a hub that was killed and started again knows where a task is
//! without having kept anything. Cursors of the list of tasks are signed the same way.
//! Invariant: what was not signed for this owner names nothing. Never: tells why.

use super::id::SessionKey;
use crate::gateway::mcp::catalog::server_key::ServerKey;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use sha2::Sha256;

/// Longer names than this are not looked at; it also has to fit into a header.
const MAX_LEN: usize = 4096;

const FORM: &str = "task.";

/// A task, as its server has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TaskId {
    /// The instance.
    pub(crate) instance: String,
    /// Its server.
    pub(crate) server: String,
    /// The server's own name of it.
    pub(crate) id: String,
}

/// The name under which `owner` knows the task that this server calls `id`. The owner of what is begun without a session
/// is the empty string.
pub(crate) fn seal(key: &SessionKey, owner: &str, server_key: &ServerKey, id: &str) -> String {
    let what = serde_json::json!([&*server_key.instance, &*server_key.server, id]).to_string();
    let what = URL_SAFE_NO_PAD.encode(what);
    let proof = URL_SAFE_NO_PAD.encode(proof(key, "tasks", owner, &what).finalize().into_bytes());
    format!("{FORM}{what}.{proof}")
}

/// The task that `owner` knows under this name.
pub(crate) fn open(key: &SessionKey, owner: &str, name: &str) -> Option<TaskId> {
    let (what, signed) = name.strip_prefix(FORM).filter(|_| name.len() <= MAX_LEN)?.rsplit_once('.')?;
    verified(key, "tasks", owner, what, signed)?;
    let (instance, server, id) = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(what).ok()?).ok()?;
    Some(TaskId { instance, server, id })
}

/// The cursor after the task of this number in the list of `owner`.
pub(crate) fn cursor(key: &SessionKey, owner: &str, number: u64) -> String {
    let proof = URL_SAFE_NO_PAD.encode(proof(key, "task cursors", owner, &number.to_string()).finalize().into_bytes());
    format!("{number}.{proof}")
}

/// The number in a cursor of this owner's list.
pub(crate) fn open_cursor(key: &SessionKey, owner: &str, cursor: &str) -> Option<u64> {
    let (number, signed) = cursor.split_once('.')?;
    verified(key, "task cursors", owner, number, signed)?;
    number.parse().ok()
}

fn verified(key: &SessionKey, purpose: &str, owner: &str, what: &str, signed: &str) -> Option<()> {
    let signed = URL_SAFE_NO_PAD.decode(signed).ok()?;
    proof(key, purpose, owner, what).verify_slice(&signed).ok()
}

fn proof(key: &SessionKey, purpose: &str, owner: &str, what: &str) -> Hmac<Sha256> {
    let mut mac = key.mac(purpose);
    for part in [owner, what] {
        mac.update(part.as_bytes());
        mac.update(&[0]);
    }
    mac
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::mcp::catalog::scope::tests::server_key;
    use proptest::prelude::*;

    #[test]
    fn a_name_is_good_for_its_owner_and_every_life_of_the_hub() {
        let key = SessionKey::from_token("t");
        let name = seal(&key, "me", &server_key("shop", "files"), "t \"1\"");
        let task = TaskId { instance: "shop".into(), server: "files".into(), id: "t \"1\"".into() };
        assert_eq!(open(&SessionKey::from_token("t"), "me", &name), Some(task));
        assert_eq!(open(&key, "you", &name), None);
        assert_eq!(open(&SessionKey::from_token("u"), "me", &name), None);
        assert!(name.bytes().all(|byte| byte.is_ascii_graphic()), "{name}");
    }

    #[test]
    fn a_cursor_is_good_for_its_owner() {
        let key = SessionKey::from_token("t");
        let at = cursor(&key, "me", 7);
        assert_eq!((open_cursor(&key, "me", &at), open_cursor(&key, "you", &at)), (Some(7), None));
        assert_eq!(open_cursor(&key, "me", &at.replacen('7', "8", 1)), None);
        assert_eq!(open_cursor(&key, "me", "7"), None);
    }

    proptest! {
        #[test]
        fn nothing_else_names_a_task(text in ".*", at in 0_usize..200, with: char) {
            let key = SessionKey::from_token("t");
            prop_assert_eq!(open(&key, "", &text), None);
            prop_assert_eq!(open_cursor(&key, "", &text), None);
            let good = seal(&key, "", &server_key("shop", "files"), "1");
            let mut forged: Vec<char> = good.chars().collect();
            let at = at % forged.len();
            forged[at] = with;
            let forged: String = forged.into_iter().collect();
            prop_assert_eq!(open(&key, "", &forged).is_some(), forged == good);
        }
    }
}
