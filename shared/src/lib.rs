//! What the Linchpin hub and its instances must agree on, and nothing else.
//!
//! Owns: where things are ([`home`]), who is there ([`registry`]), who a process is ([`process`]), what went wrong
//! ([`problem`]), when to try again ([`backoff`], [`breaker`], [`random`]), what is said on a link ([`protocol`]),
//! how a log file is kept ([`logfile`]), how a choice is written
//! ([`pattern`]), what keeps files from being written ([`space`]), what a panic ends ([`panics`]), what people must not be
//! shown ([`redact`]) and what a user may change ([`settings`]).
//! Invariant: both sides of a contract use the same type from here.
//! Never: speaks HTTP, owns a runtime, or depends on the hub or an instance.

pub mod backoff;
pub mod breaker;
pub mod home;
pub mod hub_file;
pub mod json_line;
pub mod logfile;
pub mod name;
pub mod panics;
pub mod pattern;
pub mod port;
pub mod problem;
pub mod process;
pub mod protocol;
pub mod random;
pub mod redact;
pub mod registry;
pub mod settings;
pub mod space;
pub mod sse;
