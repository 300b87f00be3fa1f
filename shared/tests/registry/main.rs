//! The registry with real processes, files and faults. Numbers in comments are rows of the fault catalogue.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod faults;
mod lab;
mod registrations;
