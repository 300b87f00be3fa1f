//! The life of the hub and of the shim, with the real binary: starts in a crowd, stops, kills, strangers and bad lines.

mod hostile;
mod hubs;
mod imposter;
mod shim;
mod strangers;
mod world;
