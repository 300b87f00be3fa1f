//! The gateway end to end: a hub in this process, instances with real MCP servers in processes of their own.

mod client;
mod world;

mod asking;
mod calls;
mod choice;
mod continuity;
mod http;
mod lists;
mod meta;
mod mirror;
mod modern;
mod own;
mod resuming;
mod tasks;
mod transport;

/// Not a test: what [`world::World::launch`] starts. Without its environment it does nothing.
#[test]
fn an_instance() {
    world::be_an_instance();
}
