//! Two instances want one name: the holder is reported, a person at a terminal is asked, and the new instance takes
//! over or runs alongside.

use anyhow::{Context, Result, ensure};
use linchpin_shared::home::Home;
use linchpin_shared::process::{Identity, Signal};
use linchpin_shared::registry::record::Record;
use linchpin_shared::registry::{Owner, Registry};
use linchpin_tests::lab::running::{Running, gone};
use linchpin_tests::lab::verb::Output;
use linchpin_tests::lab::{Lab, leftovers};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin};

const SOON: Duration = Duration::from_secs(15);

/// The live record with this name.
fn live(lab: &Lab, name: &str) -> Result<Record> {
    let scan = Registry::new(&Home::at(lab.home())).scan()?;
    let mut live = scan.entries.into_iter().filter(|entry| entry.record.name == name && entry.owner == Owner::Alive);
    let entry = live.next().with_context(|| format!("no {name} runs\n{}", lab.logs()))?;
    ensure!(live.next().is_none(), "two have the name {name}");
    Ok(entry.record)
}

/// `linchpin run --detach` in a project.
async fn detached(lab: &Lab, project: &str, flags: &[&str], command: &[&str]) -> Result<Output> {
    let words = [&["--no-autostart", "run", "--name", "shop", "--detach"], flags, &["--"], command].concat();
    let mut run = lab.linchpin(words);
    run.current_dir(lab.project(project)?);
    Output::of(run).await
}

/// All processes of the lab.
fn all_processes(lab: &Lab) -> Vec<Identity> {
    lab.mark().processes()
}

fn among(lab: &Lab, all: &[Identity]) -> Vec<Identity> {
    all_processes(lab).into_iter().filter(|process| all.contains(process)).collect()
}

async fn all_gone(lab: &Lab, who: &[Identity]) -> Result<()> {
    let left = among(lab, who);
    ensure!(left.is_empty(), "left of the one that was taken over:\n{}", leftovers::describe(&left));
    Ok(())
}

async fn stop(lab: &Lab, name: &str) -> Result<()> {
    let record = live(lab, name)?;
    record.process.signal(Signal::TERM)?;
    gone(&record.process, SOON).await
}

fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

async fn listens(lab: &Lab, port: u16) -> Result<()> {
    lab.wait_for("somebody listens", async || {
        tokio::net::TcpStream::connect(("127.0.0.1", port)).await.context("nobody listens").map(drop)
    })
    .await
}

/// A verb at a terminal, which `script` of util-linux provides with a session of its own.
struct Terminal {
    child: Child,
    keys: ChildStdin,
    screen: PathBuf,
}

impl Terminal {
    fn open(lab: &Lab, dir: &Path, words: &[&str]) -> Result<Self> {
        let screen = lab.dir().join(format!("out/screen-{}", uuid::Uuid::new_v4()));
        let line: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
        let mut script = lab.command("script");
        script.args(["-qefc", &format!("exec '{}' {}", lab.binary().display(), line.join(" ")), "/dev/null"]);
        script.current_dir(dir).stdin(std::process::Stdio::piped()).stdout(std::fs::File::create(&screen)?);
        let mut child = script.spawn().context("`script` of util-linux is needed")?;
        let keys = child.stdin.take().context("no standard input")?;
        Ok(Self { child, keys, screen })
    }

    fn shows(&self) -> String {
        std::fs::read_to_string(&self.screen).unwrap_or_default()
    }

    async fn asks(&self, lab: &Lab, text: &str) -> Result<()> {
        lab.wait_for("the terminal shows it", async || {
            let shows = self.shows();
            ensure!(shows.contains(text), "{text:?} is not in {shows:?}");
            Ok(())
        })
        .await
    }

    async fn types(&mut self, keys: &str) -> Result<()> {
        Ok(self.keys.write_all(keys.as_bytes()).await?)
    }

    async fn ends(mut self, code: i32) -> Result<String> {
        let status = tokio::time::timeout(SOON, self.child.wait()).await.with_context(|| self.shows())??;
        ensure!(status.code() == Some(code), "{status}, not {code}: {}", self.shows());
        Ok(self.shows())
    }
}

#[tokio::test]
async fn conflict_names_the_holder_and_the_next_steps() -> Result<()> {
    let lab = Lab::new()?;
    detached(&lab, "one", &[], &["sleep", "600"]).await?.exits(0)?;
    let record = live(&lab, "shop")?;
    lab.wait_for("keeper, agent and sleep run", async || {
        let all = all_processes(&lab);
        ensure!(all.len() == 3, "{}", leftovers::describe(&all));
        Ok(())
    })
    .await?;
    for flags in [&["--json"][..], &["--json", "--detach"]] {
        let words = [&["run", "--name", "shop"], flags, &["--", "sleep", "601"]].concat();
        let problem = lab.verb(words).await?.problem(4)?;
        let seen = &problem["observed"];
        assert_eq!((&problem["code"], &seen["pid"]), (&Value::from("name_taken"), &Value::from(record.process.pid)));
        assert_eq!(seen["command"], "linchpin --no-autostart run --name shop --detach -- sleep 600", "{problem}");
        assert_eq!(seen["project"], lab.project("one")?.display().to_string());
        assert_eq!(seen["since"], record.registered_at.to_string());
        let word = |field: &str| seen[field].as_str().with_context(|| format!("no {field} in {problem}"));
        ensure!(word("for")?.ends_with('s'), "{problem}");
        ensure!(word("memory")?.ends_with("MB in 3 processes"), "keeper, agent and sleep: {problem}");
        ensure!(Path::new(word("record")?).is_file(), "{problem}");
        let steps: Vec<&str> =
            problem["next_steps"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        for (step, text) in ["linchpin run --take-over", "linchpin run --alongside", "ps -o", "linchpin stop shop"]
            .into_iter()
            .enumerate()
        {
            ensure!(steps.get(step).is_some_and(|found| found.contains(text)), "{text} is not step {step}: {steps:?}");
        }
    }
    stop(&lab, "shop").await?;
    lab.nothing_is_left().await
}

#[tokio::test]
async fn conflict_at_a_terminal_asks_the_person() -> Result<()> {
    let lab = Lab::new()?;
    let project = lab.project("two")?;
    detached(&lab, "one", &[], &["sleep", "600"]).await?.exits(0)?;
    let first = live(&lab, "shop")?;
    let run = ["--no-autostart", "run", "--name", "shop", "--", "sleep", "601"];

    // Cancelled by an answer, an empty line, the end of input, and Ctrl-C. Nothing happens.
    for keys in ["what?\nc\n", "\n", "\u{4}", "\u{3}"] {
        let mut terminal = Terminal::open(&lab, &project, &run)?;
        terminal.asks(&lab, "[t]ake over").await?;
        terminal.types(keys).await?;
        let shown = terminal.ends(4).await?;
        ensure!(shown.contains("cancelled") && shown.contains("sleep 600"), "{keys:?}: {shown}");
        assert_eq!(live(&lab, "shop")?, first);
    }

    let mut terminal = Terminal::open(&lab, &project, &run)?;
    terminal.asks(&lab, "[t]ake over").await?;
    terminal.types("a\n").await?;
    terminal.asks(&lab, "shop-2 is registered").await?;
    assert_eq!(live(&lab, "shop")?, first);
    terminal.types("\u{3}").await?;
    terminal.ends(0).await?;

    // With --detach the question comes before the verb leaves the terminal.
    let detach = ["--no-autostart", "run", "--name", "shop", "--detach", "--", "sleep", "602"];
    let mut terminal = Terminal::open(&lab, &project, &detach)?;
    terminal.asks(&lab, "[t]ake over").await?;
    terminal.types("t\n").await?;
    terminal.ends(0).await?;
    ensure!(!first.process.is_alive());
    assert_eq!(live(&lab, "shop")?.project_dir, project);

    // With --json there is no question, even at a terminal.
    let terminal = Terminal::open(&lab, &project, &[&["--json"], &run[..]].concat())?;
    let shown = terminal.ends(4).await?;
    ensure!(shown.contains("name_taken") && !shown.contains("[t]ake"), "{shown}");
    stop(&lab, "shop").await?;
    lab.nothing_is_left().await
}

/// Takes an instance over after something was done to it.
async fn taken_over_after(flags: &[&str], make_hard: impl AsyncFnOnce(&Lab) -> Result<()>) -> Result<()> {
    let lab = Lab::new()?.with("LINCHPIN_INSTANCE_STOP_TIMEOUT_MS", "500");
    let port = free_port()?.to_string();
    let server = ["python3", "-m", "http.server", "--bind", "127.0.0.1", &port];
    let _hub = lab.hub().await?;
    let hub = all_processes(&lab);
    detached(&lab, "one", flags, &server).await?.exits(0)?;
    listens(&lab, port.parse()?).await?;
    let theirs: Vec<Identity> = all_processes(&lab).into_iter().filter(|process| !hub.contains(process)).collect();
    ensure!(theirs.len() >= 3, "keeper, agent and server: {}", leftovers::describe(&theirs));
    make_hard(&lab).await?;
    // It returns when the new one is registered; then nothing is left of the other, and its port is free.
    detached(&lab, "two", &["--take-over"], &["sleep", "603"]).await?.exits(0)?;
    all_gone(&lab, &theirs).await?;
    let log = std::fs::read_to_string(lab.home().join("logs/shop/agent.log"))?;
    ensure!(log.contains("Stopped(\"SIGTERM\")"), "it ended as it does when it is asked: {log}");
    drop(std::net::TcpListener::bind(format!("127.0.0.1:{port}"))?);
    let record = live(&lab, "shop")?;
    assert_eq!(record.project_dir, lab.project("two")?);
    // Only one instance with this name is shown, not the one that is gone.
    lab.shows("shop", "the new one is connected", |shop| {
        shop["state"] == "active" && shop["pid"] == record.process.pid
    })
    .await?;
    let shown = lab.status().await?["instances"].as_array().map(Vec::len);
    assert_eq!(shown, Some(1));
    lab.finish().await
}

#[tokio::test]
async fn instance_with_a_keeper_is_taken_over_and_not_restarted() -> Result<()> {
    taken_over_after(&[], async |_| Ok(())).await
}

#[tokio::test]
async fn stopped_instance_is_taken_over() -> Result<()> {
    taken_over_after(&[], async |lab| {
        for process in
            all_processes(lab).iter().filter(|process| process.pid != lab.hub_facts().map_or(0, |hub| hub.pid))
        {
            process.signal(Signal::STOP)?;
        }
        Ok(())
    })
    .await
}

/// Fault 9: an instance that does not end is killed, and its keeper first.
#[tokio::test]
async fn instance_that_ignores_sigterm_is_killed_with_its_keeper() -> Result<()> {
    let lab = Lab::new()?;
    // Its agent would wait an hour for its process, which ignores SIGTERM and has children outside of its group.
    let script =
        "trap '' TERM; (trap '' TERM; setsid sleep 610 &); setsid sleep 611 & echo ready; while :; do sleep 612; done";
    let mut run = lab.linchpin(["--no-autostart", "run", "--name", "shop", "--detach", "--", "sh", "-c", script]);
    run.env("LINCHPIN_INSTANCE_STOP_TIMEOUT_MS", "3600000").current_dir(lab.project("one")?);
    Output::of(run).await?.exits(0)?;
    lab.wait_for("it is ready", async || {
        let text = lab.verb(["logs", "shop"]).await.map(|output| output.stdout).unwrap_or_default();
        let log = std::fs::read_to_string(lab.home().join("logs/shop/main.log")).unwrap_or_default();
        ensure!(log.contains("ready") && all_processes(&lab).len() >= 6, "{text}{log}");
        Ok(())
    })
    .await?;
    let theirs = all_processes(&lab);
    let mut over =
        lab.linchpin(["--no-autostart", "run", "--name", "shop", "--detach", "--take-over", "--", "sleep", "1"]);
    over.env("LINCHPIN_INSTANCE_STOP_TIMEOUT_MS", "100").current_dir(lab.project("two")?);
    Output::of(over).await?.exits(0)?;
    all_gone(&lab, &theirs).await?;
    lab.nothing_is_left().await
}

#[tokio::test]
async fn external_registration_is_taken_over_with_its_program() -> Result<()> {
    let lab = Lab::new()?.with("LINCHPIN_INSTANCE_STOP_TIMEOUT_MS", "300");
    let port = free_port()?.to_string();
    let script = format!("trap '' TERM; python3 -m http.server --bind 127.0.0.1 {port} & wait; wait");
    let mut command = lab.command("sh");
    command.args(["-c", &script]);
    let mut program = Running::start(command, lab.dir().join("out/program.log"))?;
    listens(&lab, port.parse()?).await?;
    let (pid, url) = (program.pid().to_string(), format!("http://127.0.0.1:{port}"));
    let register = ["--no-autostart", "register", "--name", "shop", "--pid", &pid, "--url", &url];
    let mut holder = lab.run_in_front("register", register)?;
    lab.wait_for("it is registered", async || live(&lab, "shop")).await?;
    let problem = lab.verb([&register[1..], &["--json"]].concat()).await?.problem(4)?;
    assert_eq!(problem["observed"]["registered by pid"], holder.pid(), "{problem}");
    ensure!(problem["next_steps"].to_string().contains("linchpin register --take-over"), "{problem}");

    // The same program is registered again: it continues, and its first registrar ends.
    let mut again = lab.run_in_front("again", [&register[..], &["--take-over"]].concat())?;
    assert_eq!(holder.exit(SOON).await?.code(), Some(0), "{}", holder.printed());
    lab.wait_for("it is registered again", async || {
        ensure!(again.printed().contains("is registered"), "{}", again.printed());
        live(&lab, "shop")
    })
    .await?;
    ensure!(program.ended()?.is_none(), "the program goes on");
    let mut beside = lab.run_in_front("beside", [&register[..], &["--alongside"]].concat())?;
    lab.wait_for("it is also shop-2", async || live(&lab, "shop-2")).await?;
    beside.signal(Signal::TERM)?;
    ensure!(beside.exit(SOON).await?.success() && beside.printed().contains("shop-2 is no longer registered"));

    // Another instance takes over: the program ends with all its children, although its registrar is stopped.
    again.signal(Signal::STOP)?;
    let theirs: Vec<Identity> = all_processes(&lab);
    detached(&lab, "two", &["--take-over"], &["sleep", "604"]).await?.exits(0)?;
    program.exit(SOON).await?;
    again.exit(SOON).await?;
    all_gone(&lab, &theirs).await?;
    drop(std::net::TcpListener::bind(format!("127.0.0.1:{port}"))?);
    stop(&lab, "shop").await?;
    lab.nothing_is_left().await
}

/// Fault 16: the program that keeps the port is named.
#[tokio::test]
async fn program_that_keeps_the_port_after_a_take_over_is_named() -> Result<()> {
    let lab = Lab::new()?;
    let port = free_port()?;
    // It binds, and leaves a detached child that has inherited the socket.
    let script = format!(
        "import os, socket, subprocess, time\n\
         s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n\
         s.bind(('127.0.0.1', {port})); s.listen(); os.set_inheritable(s.fileno(), True)\n\
         subprocess.Popen(['sh', '-c', 'setsid sleep 605 &'], close_fds=False, env={{**os.environ, 'LINCHPIN_DETACHED': '1'}})\n\
         time.sleep(600)"
    );
    detached(&lab, "one", &[], &["python3", "-c", &script]).await?.exits(0)?;
    let keeps = lab
        .wait_for("the child runs", async || {
            let all = all_processes(&lab);
            let command = |process: &Identity| linchpin_shared::process::command_line(process.pid);
            let found = all.iter().find(|process| command(process).as_deref() == Some("sleep 605")).cloned();
            found.with_context(|| leftovers::describe(&all))
        })
        .await?;
    let problem = detached(&lab, "two", &["--take-over", "--json"], &["sleep", "606"]).await?.problem(4)?;
    assert_eq!(problem["code"], "port_taken", "{problem}");
    let seen = &problem["observed"];
    assert_eq!((&seen["port"], &seen["pid"]), (&Value::from(port), &Value::from(keeps.pid)), "{problem}");
    ensure!(keeps.is_alive(), "a process that detached itself was ended");
    keeps.signal(Signal::KILL)?;
    gone(&keeps, SOON).await?;
    detached(&lab, "two", &["--take-over"], &["sleep", "606"]).await?.exits(0)?;
    stop(&lab, "shop").await?;
    lab.nothing_is_left().await
}

#[tokio::test]
async fn instance_cannot_take_over_the_one_it_runs_in() -> Result<()> {
    let lab = Lab::new()?;
    let project = lab.project("inside")?;
    let inside = format!(
        "cd '{}'; '{}' run --name shop --take-over -- true; echo ended $?; sleep 607",
        project.display(),
        lab.binary().display()
    );
    detached(&lab, "one", &[], &["sh", "-c", &inside]).await?.exits(0)?;
    let log = lab.home().join("logs/shop/main.log");
    lab.wait_for("it was refused", async || {
        let text = std::fs::read_to_string(&log)?;
        ensure!(text.contains("ended 4") && text.contains("runs inside that instance"), "{text}");
        Ok(())
    })
    .await?;
    stop(&lab, "shop").await?;
    lab.nothing_is_left().await
}
