//! The official conformance suite, directly against a server and through the hub, which must not lose a check.

use anyhow::{Result, ensure};
use linchpin_tests::conformance::{self, LEGACY, MODERN, Revision, Score};
use linchpin_tests::{kit, lab::Lab, lab::running::Running};
use std::collections::BTreeSet;

/// A hub that demands no token, which the suite cannot send, and one server behind it over HTTP and on stdio.
struct ConformanceLab {
    lab: Lab,
    server: String,
    _running: [Running; 3],
}

impl ConformanceLab {
    async fn new() -> Result<Self> {
        let port = std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let lab = Lab::new()?.with("PORT", &port.to_string()).with("LINCHPIN_HUB_TOKEN_REQUIRED", "false");
        let hub = lab.hub().await?;
        let server = format!("http://127.0.0.1:{port}/mcp");
        let http = lab.instance_at("http", &server, &kit::conformance_server("http")?)?;
        let stdio = lab.instance("stdio", &kit::conformance_server("stdio")?)?;
        lab.usable("http").await?;
        lab.usable("stdio").await?;
        Ok(Self { lab, server, _running: [hub, http, stdio] })
    }

    async fn direct(&self, revision: Revision) -> Result<Score> {
        conformance::run(&self.lab, "direct", &self.server, revision).await
    }

    /// Checks that the score at the path of one instance is not worse than the direct one.
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

/// The scenarios that pass at `/mcp`, where names have a prefix: they use no name with a prefix.
const WITHOUT_NAMES: [&str; 8] = [
    "dns-rebinding-protection",
    "prompts-list",
    "resources-list",
    "resources-read-binary",
    "resources-read-text",
    "resources-templates-read",
    "server-sse-multiple-streams",
    "tools-list",
];

/// The same, for scenarios of one revision only.
const LEGACY_ONLY: [&str; 7] = [
    "logging-set-level",
    "ping",
    "resources-subscribe",
    "resources-unsubscribe",
    "server-initialize",
    "server-session-lifecycle",
    "server-sse-polling",
];

const MODERN_ONLY: [&str; 7] = [
    "caching",
    "http-custom-header-server-validation",
    "http-header-validation",
    "input-required-result-unsupported-methods",
    "input-required-result-validate-input",
    "sep-2164-resource-not-found",
    "tasks-status-notifications",
];

async fn keeps_the_score(revision: Revision, directly: usize, only: [&str; 7]) -> Result<()> {
    let scene = ConformanceLab::new().await?;
    let direct = scene.direct(revision).await?;
    ensure!(direct.passed() == directly, "directly {} pass, not {directly}: {direct:#?}", direct.passed());
    for instance in ["http", "stdio"] {
        scene.through_the_hub(instance, revision, &direct).await?;
    }
    let together =
        conformance::run(&scene.lab, "together", &format!("{}/mcp", scene.lab.hub_facts()?.url), revision).await?;
    let expected: BTreeSet<&str> = WITHOUT_NAMES.into_iter().chain(only).collect();
    ensure!(together.passing() == expected, "on /mcp these pass: {:#?}", together.passing());
    scene.lab.finish().await
}

#[tokio::test]
async fn hub_keeps_the_conformance_score_of_2025_11_25() -> Result<()> {
    keeps_the_score(LEGACY, 33, LEGACY_ONLY).await
}

#[tokio::test]
async fn hub_keeps_the_conformance_score_of_2026_07_28() -> Result<()> {
    keeps_the_score(MODERN, 50, MODERN_ONLY).await
}
