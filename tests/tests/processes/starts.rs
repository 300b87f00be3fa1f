//! Many starts at the same moment: of hubs, of verbs that need a hub, of instances that want one name.

use anyhow::{Context, Result, ensure};
use futures_util::future::{join_all, try_join_all};
use linchpin_shared::home::Home;
use linchpin_shared::process::{Identity, Signal, command_line};
use linchpin_shared::registry::{Owner, Registry};
use linchpin_tests::lab::running::{Running, gone};
use linchpin_tests::lab::verb::Output;
use linchpin_tests::lab::{Lab, leftovers};
use std::process::Stdio;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(15);

/// How many start at once.
const CROWD: usize = 50;

/// The number of rounds of two that want one name. Each takes a fraction of a second.
const ROUNDS: usize = 15;

/// The hubs that run in this lab.
fn hubs(lab: &Lab) -> Vec<Identity> {
    let words = |process: &Identity| command_line(process.pid).unwrap_or_default();
    let is_hub = |process: &Identity| words(process).split(' ').nth(1) == Some("hub");
    lab.mark().processes().into_iter().filter(is_hub).collect()
}

/// The number of hubs that have ever served in this lab.
fn served(lab: &Lab) -> Result<usize> {
    let log = std::fs::read_to_string(lab.home().join("logs/hub.log"))?;
    Ok(log.lines().filter(|line| line.contains("the hub serves")).count())
}

/// Fault 15: of 50 hubs that start at once exactly one serves; the others report which one, and exit with 0.
#[tokio::test]
async fn fifty_hubs_started_at_once_leave_one_serving() -> Result<()> {
    let lab = Lab::new()?;
    let start = || lab.linchpin(["--json", "hub"]).stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    let mut all = (0..CROWD).map(|_| start()).collect::<std::io::Result<Vec<_>>>()?;
    let facts = lab.hub_answers(None).await?;
    let place = all.iter().position(|hub| hub.id() == Some(facts.pid)).context("the serving hub is not one of them")?;
    let mut serving = all.swap_remove(place);
    let others = all.into_iter().map(|hub| tokio::time::timeout(SOON, hub.wait_with_output()));
    for told in join_all(others).await {
        let told = told.context("it goes on")??;
        ensure!(told.status.code() == Some(0), "{told:?}");
        let told: serde_json::Value = serde_json::from_slice(&told.stdout).with_context(|| format!("{told:?}"))?;
        assert_eq!(
            (&told["pid"], &told["url"]),
            (&facts.pid.into(), &facts.url.as_str().into()),
            "the message does not name the hub that serves"
        );
    }
    ensure!(serving.try_wait()?.is_none(), "the serving hub ended");
    assert_eq!(served(&lab)?, 1);
    lab.verb(["hub", "stop"]).await?.exits(0)?;
    ensure!(serving.wait().await?.success());
    lab.nothing_is_left().await
}

/// Fault 15: 50 verbs need a hub and none runs: one is started, and every verb gets its answer.
#[tokio::test]
async fn fifty_verbs_that_need_a_hub_start_exactly_one() -> Result<()> {
    let lab = Lab::new()?;
    let verbs: [&[&str]; 5] =
        [&["status", "--json"], &["tools", "--json"], &["token"], &["mcp"], &["status", "nobody", "--json"]];
    let run = |number: usize| {
        let words = verbs[number % verbs.len()];
        // The shim's standard input is at its end already, so it ends once it has a hub.
        let command = lab.linchpin(words);
        async move { Output::of(command).await?.exits(if words.contains(&"nobody") { 3 } else { 0 }) }
    };
    let said = try_join_all((0..CROWD).map(run)).await?;
    let facts = lab.hub_answers(None).await?;
    assert_eq!(hubs(&lab).iter().map(|hub| hub.pid).collect::<Vec<_>>(), [facts.pid]);
    assert_eq!(served(&lab)?, 1);
    for said in said.iter().step_by(verbs.len()) {
        assert_eq!(serde_json::from_str::<serde_json::Value>(&said.stdout)?["hub"]["pid"], facts.pid);
    }
    for said in said.iter().skip(2).step_by(verbs.len()) {
        assert_eq!(said.stdout.trim(), facts.token);
    }
    lab.finish().await
}

/// Fault 15: instances need a hub while it is killed: there is one hub afterwards, and it has all of them.
#[tokio::test]
async fn instances_started_while_the_hub_dies_share_one_hub() -> Result<()> {
    let lab = Lab::new()?;
    for round in 0..3 {
        let names: Vec<String> = (0..5).map(|number| format!("one-{round}-{number}")).collect();
        let run = |name: &String| {
            let command = lab.linchpin(["run", "--name", name, "--detach", "--", "sleep", "600"]);
            async move { Output::of(command).await?.exits(0) }
        };
        let killer = async {
            if round > 0 {
                lab.kill_hub().await?;
            }
            Ok::<_, anyhow::Error>(())
        };
        let (started, killed) = tokio::join!(try_join_all(names.iter().map(run)), killer);
        started?;
        killed?;
        lab.linchpin(["status"]).output().await?;
        for name in &names {
            lab.shows(name, "it is connected", |instance| instance["state"] == "active").await?;
        }
        assert_eq!(hubs(&lab).len(), 1);
    }
    lab.finish().await
}

/// The holders of the name: pid and project.
fn holders(lab: &Lab) -> Result<Vec<(u32, String)>> {
    let entries = Registry::new(&Home::at(lab.home())).scan()?.entries;
    let live = entries.into_iter().filter(|entry| entry.owner == Owner::Alive && entry.record.name == "shop");
    Ok(live.map(|entry| (entry.record.process.pid, entry.record.project_dir.display().to_string())).collect())
}

/// Starts two at once, and checks that one gets the name and the other reports which one.
async fn check_one_owner(lab: &Lab, projects: [&str; 2], round: usize) -> Result<()> {
    let mut both = Vec::new();
    for (place, project) in projects.into_iter().enumerate() {
        let mut command = lab.linchpin(["--no-autostart", "--json", "run", "--name", "shop", "--", "sleep", "600"]);
        command.current_dir(lab.project(project)?);
        both.push(Running::start(command, lab.dir().join(format!("out/run-{project}-{place}-{round}.log")))?);
    }
    let loser = lab
        .wait_for("one of them gives up", async || {
            for (place, run) in both.iter_mut().enumerate() {
                if let Some(status) = run.ended()? {
                    ensure!(status.code() == Some(4), "{status}: {}", run.printed());
                    return Ok(place);
                }
            }
            anyhow::bail!("both run")
        })
        .await?;
    let (said, winner) = (both[loser].printed(), &both[1 - loser]);
    let problem: serde_json::Value = serde_json::from_str(&said).with_context(|| said.clone())?;
    let project = lab.project(projects[1 - loser])?.display().to_string();
    assert_eq!(problem["code"], "name_taken");
    assert_eq!(problem["observed"]["pid"], winner.pid(), "round {round}: {said}");
    assert_eq!(problem["observed"]["project"], project, "round {round}: {said}");
    assert_eq!(holders(lab)?, [(winner.pid(), project)]);
    winner.signal(Signal::TERM)?;
    let winner = winner.identity().clone();
    gone(&winner, SOON).await
}

#[tokio::test]
async fn name_goes_to_one_of_two_instances_of_one_project() -> Result<()> {
    let lab = Lab::new()?;
    for round in 0..ROUNDS {
        check_one_owner(&lab, ["one", "one"], round).await?;
    }
    lab.nothing_is_left().await
}

#[tokio::test]
async fn name_goes_to_one_of_two_instances_of_two_projects() -> Result<()> {
    let lab = Lab::new()?;
    for round in 0..ROUNDS {
        check_one_owner(&lab, ["one", "two"], round).await?;
    }
    lab.nothing_is_left().await
}

/// Several take over at once: the last one has the name, and nothing is left of the others.
#[tokio::test]
async fn name_goes_to_one_of_many_concurrent_take_overs() -> Result<()> {
    let lab = Lab::new()?;
    let mut all = Vec::new();
    for number in 0..6 {
        let words = ["--no-autostart", "--json", "run", "--name", "shop", "--take-over", "--", "sleep", "600"];
        let mut command = lab.linchpin(words);
        command.current_dir(lab.project(if number % 2 == 0 { "one" } else { "two" })?);
        all.push(Running::start(command, lab.dir().join(format!("out/over-{number}.log")))?);
    }
    let holder = lab
        .wait_for("all but one ended", async || {
            let mut left = Vec::new();
            for run in &mut all {
                if run.ended()?.is_none() {
                    left.push(run.pid());
                }
            }
            let holders = holders(&lab)?;
            ensure!(left.len() == 1 && holders.len() == 1 && holders[0].0 == left[0], "{left:?} run, {holders:?}");
            Ok(left[0])
        })
        .await?;
    lab.wait_for("only the instance with the name runs, and its process", async || {
        let left = lab.mark().processes();
        ensure!(left.len() == 2, "{}", leftovers::describe(&left));
        Ok(())
    })
    .await?;
    Identity::of(holder)?.signal(Signal::TERM)?;
    lab.nothing_is_left().await
}
