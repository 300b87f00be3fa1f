//! `linchpin run --detach`: an agent in the background, and a keeper that restarts it when it dies.
//!
//! The caller ([`detach()`]) starts a keeper ([`keep()`]), and the keeper an agent ([`serve()`]); each is this
//! executable again, under hidden verbs. [`orders`] are sent down as a line of JSON on standard input, and reports come
//! up as lines on standard output. The caller returns only when the instance is registered, or with the reason why it
//! is not.
//!
//! Keeper and agent may each be killed: the other starts it again. When both are killed at once, they stay dead, and
//! the hub ends what they left. Neither belongs to the caller's terminal or session.

mod detach;
mod keep;
mod keeper_watch;
mod orders;
mod serve;

pub use detach::detach;
pub use keep::keep;
pub use orders::{Relaunch, Started};
pub use serve::serve;
