//! What the backends offer: the last known lists of each, and the one view that a client is shown.
//!
//! Owns [`list`] (one backend's lists), [`view`] (all of them put together, per scope) and [`resolve`] (who has a name). All are pure.
//! Invariant: names and order follow from what is known, never from who answered first.
//! Never: talks to a backend.

pub(crate) mod filter;
pub(crate) mod list;
pub(crate) mod naming;
pub(crate) mod resolve;
pub(crate) mod scope;
pub(crate) mod search;
pub(crate) mod server_key;
pub(crate) mod view;
