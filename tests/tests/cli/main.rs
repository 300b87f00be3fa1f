//! The command line: every verb and its JSON, what it answers to bad input, the doctor, and the import of agents'
//! servers.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod bad_input;
mod doctor;
mod import;
mod verbs;
