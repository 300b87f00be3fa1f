//! (docs)

pub(crate) mod http;
pub(crate) mod response;
pub(crate) mod stateless;
