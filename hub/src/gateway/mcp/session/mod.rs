//! (docs)

pub(crate) mod capability_sets;
pub(crate) mod client;
pub(crate) mod eviction;
pub(crate) mod id;
pub(crate) mod in_flight;
pub(crate) mod latest;
pub(crate) mod outbox;
pub(crate) mod pending_input;
pub(crate) mod persisted;
pub(crate) mod replay;
pub(crate) mod server_requests;
pub(crate) mod store;
pub(crate) mod subscription;
pub(crate) mod task_book;
pub(crate) mod task_id;
