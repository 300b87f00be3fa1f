//! The registry with real processes, files and faults. The numbers in comments are those of docs/faults.md.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod faults;
mod lab;
mod registrations;
