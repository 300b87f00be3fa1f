//! The types of request bodies on links.

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};

/// Any error that can be sent between threads.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of a request to an instance.
pub type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, BoxError>;

pub(super) fn empty() -> Body {
    Empty::new().map_err(BoxError::from).boxed_unsync()
}
