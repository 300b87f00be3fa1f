//! One session of an agent over the death of everything behind it.

mod journal;
mod matrix;
mod sessions;
mod shim;
