//! What the backends offer: the last known lists of each, and the one view that a client is shown.
//!
//! Owns [`list`] (one backend's lists) and [`view`] (all of them put together, per scope). Both are pure.
//! Invariant: names and order follow from what is known, never from who answered first.
//! Never: talks to a backend.

pub(crate) mod list;
pub(crate) mod view;
