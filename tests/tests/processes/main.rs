//! Processes: hubs, instances and their children that start, stop, panic, are killed or suspended, and want one name
//! or port.

mod children;
mod conflicts;
mod hubs;
mod panics;
mod ports;
mod starts;
mod stops;
mod suspended;
