//! The MCP server of the conformance runs: what the official suite demands of a server, written with the official SDK.
//!
//! `conformance-server stdio` speaks on standard input and output, `conformance-server http` listens on 127.0.0.1 at
//! the port in the variable `PORT`; both in every version that the SDK speaks. What the suite demands is in
//! `fixtures.json`: [`fixtures`] reads it, [`server`] serves it, [`rounds`] asks for input, and [`jobs`] has the calls
//! that become tasks. It does nothing that the SDK does not do by itself, so a score through the hub can be compared
//! with the score of the direct run.

#![expect(deprecated, reason = "versions before 2026-07-28 have what is deprecated since")]

mod fixtures;
mod jobs;
mod rounds;
mod server;

use anyhow::{Context, Result, bail};
use rmcp::ServiceExt;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use server::Server;

#[tokio::main]
async fn main() -> Result<()> {
    match std::env::args().nth(1).as_deref() {
        Some("stdio") => {
            Server::new()?.serve(rmcp::transport::stdio()).await?.waiting().await?;
            Ok(())
        }
        Some("http") => http().await,
        other => bail!("{other:?} is neither stdio nor http"),
    }
}

async fn http() -> Result<()> {
    let port: u16 = std::env::var("PORT").context("PORT is not set")?.parse()?;
    let server = Server::new()?;
    let mut config = StreamableHttpServerConfig::default();
    config.allowed_origins = ["127.0.0.1", "localhost", "[::1]"].map(|host| format!("http://{host}:*")).to_vec();
    let sessions = std::sync::Arc::new(LocalSessionManager::default());
    let service = StreamableHttpService::new(move || Ok(server.clone()), sessions, config);
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    axum::serve(listener, axum::Router::new().nest_service("/mcp", service)).await?;
    Ok(())
}
