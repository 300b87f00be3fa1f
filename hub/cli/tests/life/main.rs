//! The life of the hub and of the shim, with the real binary: starts in a crowd, stops, kills, strangers and bad lines;
//! and what their surroundings do to them: watches, files, disks and homes.

#[path = "../../../tests/gateway/client.rs"]
#[expect(dead_code, reason = "what the tests of the gateway need of it is more")]
mod agent;
mod children;
mod homes;
mod hostile;
mod hubs;
mod imposter;
mod journal;
mod junk;
mod lives;
mod mallory;
mod others;
mod secrets;
mod shim;
mod space;
mod strangers;
mod watching;
mod within;
mod world;
