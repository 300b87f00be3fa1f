//! Links against real connections: what a fault is called, what follows from it, and what must not happen.

mod dialling;
mod foreign;
mod lies;
mod life;
mod paused;
mod peer;
mod real;
mod requests;
mod rig;
