//! The official conformance suite, directly against a server and through the hub: the hub may lose nothing.

use anyhow::{Result, ensure};
use linchpin_tests::conformance::{self, LEGACY, MODERN, Revision, Score};
use linchpin_tests::{kit, lab::Lab, lab::running::Running};

/// A hub without a token, which the suite cannot send, and the server behind it twice: over HTTP and on stdio.
struct World {
    lab: Lab,
    server: String,
    _running: [Running; 3],
}

impl World {
    async fn new() -> Result<Self> {
        let port = std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let lab = Lab::new()?.with("PORT", &port.to_string()).with("LINCHPIN_HUB_TOKEN_REQUIRED", "false");
        let hub = lab.hub().await?;
        let server = format!("http://127.0.0.1:{port}/mcp");
        let line = kit::conformance_server("http")?;
        let arguments = ["run", "--name", "http", "--mcp-url", &server, "--"];
        let http = lab.run_in_front("http", arguments.into_iter().chain(line.iter().map(String::as_str)))?;
        let stdio = lab.instance("stdio", &kit::conformance_server("stdio")?)?;
        lab.usable("http").await?;
        lab.usable("stdio").await?;
        Ok(Self { lab, server, _running: [hub, http, stdio] })
    }

    async fn direct(&self, revision: Revision) -> Result<Score> {
        conformance::run(&self.lab, "direct", &self.server, revision).await
    }

    /// The score of an instance's own address must be the direct one.
    async fn through_the_hub(&self, instance: &str, revision: Revision, direct: &Score) -> Result<()> {
        let url = format!("{}/i/{instance}/mcp", self.lab.hub_facts()?.url);
        let worse = conformance::run(&self.lab, instance, &url, revision).await?.worse_than(direct);
        ensure!(
            worse.is_empty(),
            "{instance}, {}: worse than directly: {worse:#?}\n{}",
            revision.name,
            self.lab.logs()
        );
        Ok(())
    }
}

async fn keeps_the_score(revision: Revision, directly: usize) -> Result<()> {
    let world = World::new().await?;
    let direct = world.direct(revision).await?;
    ensure!(direct.passed() == directly, "directly {} pass, not {directly}: {direct:#?}", direct.passed());
    for instance in ["http", "stdio"] {
        world.through_the_hub(instance, revision, &direct).await?;
    }
    world.lab.finish().await
}

#[tokio::test]
async fn the_hub_keeps_the_score_of_2025_11_25() -> Result<()> {
    keeps_the_score(LEGACY, 33).await
}

#[tokio::test]
async fn the_hub_keeps_the_score_of_2026_07_28() -> Result<()> {
    keeps_the_score(MODERN, 50).await
}
