//! (docs)

pub(crate) mod capabilities;
pub(crate) mod envelope;
pub(crate) mod errors;
pub(crate) mod headers;
pub(crate) mod json;
pub(crate) mod level;
pub(crate) mod list_kind;
pub(crate) mod notification;
pub(crate) mod param_headers;
pub(crate) mod result;
pub(crate) mod sse;
pub(crate) mod stateless;
pub(crate) mod task_fields;
pub(crate) mod template;
pub(crate) mod translate;
pub(crate) mod version;
