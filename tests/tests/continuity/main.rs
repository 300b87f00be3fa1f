//! One session of an agent that survives the death of everything behind it.

mod journal;
mod matrix;
mod sessions;
mod shim;
