//! The gateway: what agents and MCP servers see of each other through the hub, and what hostile ones can do.

mod builtin;
mod calls;
mod conformance;
mod conformance_client;
mod dialects;
mod filter;
mod fuzz_corpus;
mod hostile_clients;
mod hostile_servers;
mod hostile_urls;
mod interruptions;
mod lab;
mod large_results;
mod lists;
mod param_headers;
mod resume;
mod search;
mod server_requests;
mod stateless;
mod tasks;
mod transport;
mod url_servers;
