//! The links between hub and instances: what they show, and lost packets, broken connections, changed interfaces and
//! clocks.

mod clocks;
mod interfaces;
mod packets;
mod proxy;
mod status;
mod storm;
