//! Links against real connections: what a fault is called, what follows from it, and what must not happen.

mod dialling;
mod life;
mod peer;
mod real;
mod requests;
mod rig;
