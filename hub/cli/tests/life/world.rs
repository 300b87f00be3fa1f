//! A private home and what runs in it.
//!
//! Owns every process that is started here: all carry the home's path in their environment, by which they are found when
//! the world ends. Never: waits without a deadline.

use anyhow::{Context, Result, bail, ensure};
use linchpin_shared::process::{Identity, Signal};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;
use tokio::time::Instant;

/// The deadline of every wait.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A private home.
pub(crate) struct World {
    dir: tempfile::TempDir,
    home: PathBuf,
    env: Vec<(&'static str, String)>,
    instances: Vec<Child>,
}

impl World {
    pub(crate) fn new() -> Result<Self> {
        Self::in_home(|dir| dir.join("home"))
    }

    /// A world whose home is at this place in its directory.
    pub(crate) fn in_home(place: impl FnOnce(&Path) -> PathBuf) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        Ok(Self { home: place(dir.path()), dir, env: Vec::new(), instances: Vec::new() })
    }

    /// A world whose programs find this in their environment.
    pub(crate) fn with(name: &'static str, value: &str) -> Result<Self> {
        let mut world = Self::new()?;
        world.set(name, value);
        Ok(world)
    }

    /// What its programs find in their environment from now on.
    pub(crate) fn set(&mut self, name: &'static str, value: &str) {
        self.env.push((name, value.to_owned()));
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.home.clone()
    }

    /// The command line with these arguments.
    pub(crate) fn linchpin(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_linchpin"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("LINCHPIN_")) {
            command.env_remove(name);
        }
        command.args(arguments).env("LINCHPIN_HOME", self.home()).env("LINCHPIN_HUB_PORT", "0");
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command.current_dir(self.dir.path()).stdin(Stdio::null());
        command
    }

    /// Begins a verb and gives its end.
    pub(crate) fn begin(&self, arguments: &[&str]) -> Result<Verb> {
        let mut command = self.linchpin(arguments);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let (said, end) = mpsc::channel();
        std::thread::spawn(move || said.send(child.wait_with_output()));
        Ok(Verb { name: arguments.join(" "), end })
    }

    /// Runs a verb that ends well, and gives its JSON.
    pub(crate) fn json(&self, arguments: &[&str]) -> Result<Value> {
        let (code, said) = self.begin(&[&["--json"], arguments].concat())?.end()?;
        ensure!(code == Some(0), "{arguments:?}: {code:?}: {said}");
        Ok(said)
    }

    /// `hub.json` as it is.
    pub(crate) fn file(&self) -> Result<Value> {
        let path = self.home().join("hub.json");
        let bytes = std::fs::read(&path).with_context(|| path.display().to_string())?;
        Ok(serde_json::from_slice(&bytes)?)
    }

    /// The hub that `hub.json` names.
    pub(crate) fn hub(&self) -> Result<Identity> {
        Ok(serde_json::from_value(self.file()?["process"].clone())?)
    }

    /// Kills the hub as a crash would.
    pub(crate) fn kill_hub(&self) -> Result<()> {
        let hub = self.hub()?;
        ensure!(hub.signal(Signal::KILL)?, "there was no hub");
        until("the hub is dead", || {
            ensure!(!hub.is_alive(), "it lives");
            Ok(())
        })
    }

    /// The processes of this world whose command line has this word.
    pub(crate) fn processes(&self, word: &str) -> Vec<Identity> {
        let mark = [b"LINCHPIN_HOME=", self.home.as_os_str().as_bytes()].concat();
        let pids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let ours = |pid: &u32| {
            let has = |file: &str, wanted: &[u8]| {
                let text = std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
                text.split(|byte| *byte == 0).any(|part| part == wanted)
            };
            has("environ", &mark) && (word.is_empty() || has("cmdline", word.as_bytes()))
        };
        pids.filter(ours).filter_map(|pid| Identity::of(pid).ok()).collect()
    }

    /// Starts an instance with the test server, and waits until the hub has a session with it.
    pub(crate) fn serve(&mut self, name: &str) -> Result<()> {
        let state = self.state(name);
        std::fs::create_dir_all(&state)?;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/mcp_server.py");
        let (script, state) = (script.display().to_string(), state.display().to_string());
        self.instance(&["run", "--name", name, "--mcp", "--", "python3", &script, name, &state])?;
        until(&format!("{name} is ready"), || {
            let status = self.json(&["status"])?;
            let ready = status["instances"].as_array().into_iter().flatten().any(|instance| {
                instance["name"] == name
                    && instance["servers"][0]["session"] == "ready"
                    && instance["servers"][0]["tools"].as_u64() > Some(3)
            });
            ensure!(ready, "{status:#}");
            Ok(())
        })
    }

    /// Starts an instance in the foreground.
    pub(crate) fn instance(&mut self, arguments: &[&str]) -> Result<()> {
        let mut command = self.linchpin(arguments);
        let instance = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        self.instances.push(instance);
        Ok(())
    }

    /// Where the test server keeps what outlives it.
    pub(crate) fn state(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Waits until the test server has noted so many calls of a tool.
    pub(crate) fn called(&self, name: &str, tool: &str, times: usize) -> Result<()> {
        let path = self.state(name).join("calls");
        until(&format!("{tool} is called"), || {
            let calls = std::fs::read_to_string(&path).unwrap_or_default();
            ensure!(calls.lines().filter(|line| *line == tool).count() == times, "{calls:?}");
            Ok(())
        })
    }

    /// Sends these bytes to the hub, and gives the status and all that it answers.
    pub(crate) fn raw(&self, bytes: &str) -> Result<(u16, String)> {
        let port = self.file()?["port"].as_u64().context("no port")?;
        let mut stream = TcpStream::connect(("127.0.0.1", u16::try_from(port)?))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        // The hub may have closed before it was all sent; what it said counts.
        let _ = stream.write_all(bytes.as_bytes());
        let mut answer = Vec::new();
        let mut part = [0; 4096];
        while let Ok(length @ 1..) = stream.read(&mut part) {
            answer.extend_from_slice(&part[..length]);
        }
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        Ok((status, answer))
    }

    /// The processes that are left when instances and hub were told to end.
    fn end(&mut self) -> Vec<Identity> {
        for instance in &mut self.instances {
            let _ = Identity::of(instance.id()).map(|identity| identity.signal(Signal::TERM));
        }
        for instance in &mut self.instances {
            let ended = || {
                ensure!(instance.try_wait()?.is_some(), "the instance lives");
                Ok(())
            };
            let _ = until("the instance ends", ended);
        }
        let _ = self.begin(&["hub", "stop"]).and_then(Verb::end);
        let left = self.processes("");
        for process in &left {
            let _ = process.signal(Signal::KILL);
        }
        left
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let left = self.end();
        assert!(left.is_empty() || std::thread::panicking(), "left behind: {left:?}");
    }
}

/// A verb under way.
pub(crate) struct Verb {
    name: String,
    end: mpsc::Receiver<std::io::Result<Output>>,
}

impl Verb {
    /// Its exit code and what it printed: JSON, or text.
    pub(crate) fn end(self) -> Result<(Option<i32>, Value)> {
        let output = self.end.recv_timeout(PATIENCE).with_context(|| format!("{} does not end", self.name))??;
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        Ok((output.status.code(), serde_json::from_str(&said).unwrap_or(Value::String(said))))
    }
}

/// An agent that talks to `linchpin mcp`.
pub(crate) struct Shim {
    child: Child,
    input: Option<ChildStdin>,
    output: mpsc::Receiver<String>,
    /// What came and was not waited for.
    pub(crate) kept: Vec<Value>,
}

impl Shim {
    pub(crate) fn start(world: &World) -> Result<Self> {
        let mut command = world.linchpin(&["mcp"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let (lines, output) = mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().context("no output")?);
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| lines.send(line)));
        Ok(Self { input: child.stdin.take(), child, output, kept: Vec::new() })
    }

    /// A shim with a session.
    pub(crate) fn open(world: &World) -> Result<Self> {
        let mut shim = Self::start(world)?;
        shim.initialize()?;
        Ok(shim)
    }

    pub(crate) fn initialize(&mut self) -> Result<()> {
        let about =
            json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}});
        self.request(&json!("hello"), "initialize", &about)?;
        let answer = self.answer(&json!("hello"))?;
        ensure!(answer["result"]["protocolVersion"] == "2025-11-25", "{answer}");
        self.line(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#)
    }

    pub(crate) fn line(&mut self, line: &str) -> Result<()> {
        let input = self.input.as_mut().context("closed")?;
        input.write_all(line.as_bytes())?;
        Ok(input.write_all(b"\n")?)
    }

    pub(crate) fn request(&mut self, id: &Value, method: &str, params: &Value) -> Result<()> {
        self.line(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).to_string())
    }

    pub(crate) fn call(&mut self, id: u64, tool: &str, arguments: &Value) -> Result<()> {
        self.request(&json!(id), "tools/call", &json!({"name": tool, "arguments": arguments}))
    }

    /// Asks the hub for a sign of life.
    pub(crate) fn ping(&mut self, id: u64) -> Result<()> {
        self.request(&json!(id), "ping", &json!({}))?;
        let answer = self.answer(&json!(id))?;
        ensure!(answer["result"] == json!({}), "{answer}");
        Ok(())
    }

    pub(crate) fn answer(&mut self, id: &Value) -> Result<Value> {
        self.first(&format!("answer to {id:.40}"), |message| message["id"] == *id && message.get("method").is_none())
    }

    /// The first message of a kind; others are kept.
    pub(crate) fn first(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        if let Some(at) = self.kept.iter().position(&wanted) {
            return Ok(self.kept.remove(at));
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.output.recv_timeout(left).with_context(|| format!("no {what}; kept: {:?}", self.kept))?;
            let message = serde_json::from_str(&line).with_context(|| format!("not a message: {line}"))?;
            if wanted(&message) {
                return Ok(message);
            }
            self.kept.push(message);
        }
    }

    /// Goes, as an agent does, and gives how long the shim stayed and what it said until its end.
    pub(crate) fn close(mut self) -> Result<(Duration, Vec<Value>)> {
        let began = Instant::now();
        drop(self.input.take());
        until("the shim ends", || {
            ensure!(self.child.try_wait()?.is_some(), "it stays");
            Ok(())
        })?;
        let took = began.elapsed();
        let rest = self.output.iter().map(|line| Ok(serde_json::from_str(&line)?)).collect::<Result<Vec<Value>>>()?;
        self.kept.extend(rest);
        ensure!(self.child.wait()?.success(), "it ended badly");
        Ok((took, std::mem::take(&mut self.kept)))
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Looks all the time whether it stays so: for what must not happen, of which there is no sign to wait for.
pub(crate) fn throughout(span: Duration, mut look: impl FnMut() -> Result<()>) -> Result<()> {
    let end = Instant::now() + span;
    while Instant::now() < end {
        look()?;
        pause();
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "between two looks of a test that has a thread of its own")]
fn pause() {
    std::thread::sleep(Duration::from_millis(5));
}

/// Looks until it is so, and tells what was seen last when it does not come.
pub(crate) fn until(what: &str, look: impl FnMut() -> Result<()>) -> Result<()> {
    until_within(PATIENCE, what, look)
}

/// As [`until`], for what takes a busy machine longer.
pub(crate) fn until_within(patience: Duration, what: &str, mut look: impl FnMut() -> Result<()>) -> Result<()> {
    let deadline = Instant::now() + patience;
    loop {
        match look() {
            Ok(()) => return Ok(()),
            Err(seen) if Instant::now() > deadline => bail!("{what}: {seen:#}"),
            Err(_) => pause(),
        }
    }
}

/// Removes a directory into which a hub may be writing at this very moment.
pub(crate) fn remove_whole(dir: &Path) -> std::io::Result<()> {
    loop {
        match std::fs::remove_dir_all(dir) {
            Err(error) if error.kind() == std::io::ErrorKind::DirectoryNotEmpty => {}
            done => return done,
        }
    }
}
