//! The registry under many processes: what they do to it, and what must hold whatever they do.
//!
//! Owns the workers (real processes with the registry in them), the reference model, and the driver that holds one
//! against the other, round by round, from a seed. Invariant: the reference is pure and knows no file.
//! Never: lets a seed be lost: every failure names it.

pub mod driver;
pub mod model;
pub mod rng;
pub mod wire;
pub mod worker;
