//! The registry under many processes, compared with a reference model.
//!
//! The workers are real processes, the model is pure, and the driver compares the two round by round, from a seed.
//! Every failure names its seed.

pub mod driver;
pub mod model;
pub mod rng;
pub mod wire;
pub mod worker;
