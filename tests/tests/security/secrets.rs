//! Secrets are planted everywhere, every verb is run with good and bad input, and all outputs and files are searched
//! for them.

use anyhow::{Context, Result, ensure};
use linchpin_tests::kit;
use linchpin_tests::lab::Lab;
use linchpin_tests::wait::{PATIENCE, until};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The beginning of every planted secret.
const PLANTED: &str = "planted-";

/// A process that ends with its owner.
struct Holder(Child);

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// All files under a directory except those in which secrets belong.
fn files(dir: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in dir.read_dir()? {
        let path = entry?.path();
        let owns = path.extension().is_some_and(|extension| extension == "json" || extension == "toml")
            || path.parent().is_some_and(|dir| dir.ends_with("quarantine"))
                && !path.to_string_lossy().ends_with(".why");
        if path.is_dir() {
            files(&path, found)?;
        } else if !owns {
            found.push(path);
        }
    }
    Ok(())
}

/// The outputs, each with its origin.
#[derive(Default)]
struct Said(Vec<(String, String)>);

impl Said {
    /// Runs a verb, as text and as JSON.
    async fn drive(&mut self, lab: &Lab, arguments: &[&str]) -> Result<()> {
        for json in [&[][..], &["--json"]] {
            let arguments = [json, arguments].concat();
            let (code, said) = lab.begin(&arguments)?.end().await?;
            ensure!(code < 128, "{arguments:?} was killed: {said}");
            self.0.push((arguments.join(" "), said.to_string()));
        }
        Ok(())
    }

    fn tells(&self, word: &str) -> bool {
        self.0.iter().any(|(_, text)| text.contains(word))
    }
}

/// The secrets of hub and records, and the planted ones.
fn secrets(lab: &Lab) -> Result<Vec<String>> {
    let mut secrets = vec![PLANTED.to_owned(), lab.hub_facts()?.token];
    for file in lab.home().join("instances").read_dir()? {
        let record = std::fs::read(file?.path()).unwrap_or_default();
        let record: Value = serde_json::from_slice(&record).unwrap_or_default();
        secrets.extend(record["secret"].as_str().map(str::to_owned));
    }
    ensure!(secrets.len() > 2, "no record was found");
    Ok(secrets)
}

/// Starts a listener whose arguments contain secrets, and returns its port.
fn holder() -> Result<(Holder, u16)> {
    let listen = "import socket,time;s=socket.create_server(('127.0.0.1',0));print(s.getsockname()[1],flush=True);\
                  time.sleep(300)";
    let secret =
        ["--token", "planted-holder secret", "DB_PASSWORD=planted-holder", "http://me:planted-holder@localhost/"];
    let mut child = Command::new("python3").args(["-c", listen]).args(secret).stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().context("none")?), &mut line)?;
    Ok((Holder(child), line.trim().parse()?))
}

/// Starts an instance whose arguments contain secrets, and a second one with its name.
async fn shop(lab: &Lab, said: &mut Said) -> Result<()> {
    let state = lab.state("shop");
    std::fs::create_dir_all(&state)?;
    let server = kit::fixture("shop", &state)?;
    let mut run = vec!["run", "--name", "shop", "--mcp", "--"];
    run.extend(server.iter().map(String::as_str));
    run.extend(["--api-key", "planted-argument", "PASSWORD=planted-argument"]);
    lab.launch(&run)?;
    until("shop is ready", PATIENCE, async || {
        let status = lab.json(&["status"]).await?;
        ensure!(status["instances"][0]["servers"][0]["session"] == "ready", "{status:#}");
        Ok(())
    })
    .await?;
    said.drive(lab, &run).await?;
    ensure!(said.tells("This name is taken"), "{:?}", said.0);
    Ok(())
}

/// Plants broken records: one with a secret of a wrong type, one that is cut off.
async fn broken(lab: &Lab) -> Result<()> {
    for (number, text) in [(1, r#"{"format":1,"secret":["planted-record"]}"#), (2, r#"{"secret":"planted-record"#)] {
        let path = lab.home().join(format!("instances/00000000-0000-0000-0000-00000000000{number}.json"));
        std::fs::write(&path, text)?;
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    }
    until("they are put aside", PATIENCE, async || {
        let aside = lab.home().join("instances/quarantine").read_dir()?.count();
        ensure!(aside == 4, "{aside} files are in the quarantine");
        Ok(())
    })
    .await
}

/// Every verb with good and bad input. PORT, PID, URL and REPORT are filled in.
const VERBS: [&[&str]; 25] = [
    &["status"],
    &["status", "shop"],
    &["explain", "shop"],
    &["logs", "shop"],
    &["tools"],
    &["call", "shop__echo", r#"{"text": "x", "password": "planted-message"}"#],
    &["call", "shop__echo", r#"{"password": "planted-message", "#],
    &["call", "shop__nothing", r#"{"token": "planted-message"}"#],
    &["config", "show", "--origin"],
    &["doctor"],
    &["doctor", "--fix", "--save", "REPORT"],
    &["hub"],
    &["hub", "--port", "PORT"],
    &["register", "--name", "shop", "--pid", "PID", "--url", "http://127.0.0.1:1"],
    &["register", "--name", "x", "--pid", "PID", "--url", "URL"],
    &["register", "--name", "x", "--pid", "4000000000", "--url", "http://127.0.0.1:1"],
    &["run", "--name", "url", "--mcp-url", "URL"],
    &["run", "--name", "missing", "--", "/nowhere/program", "--token", "planted-argument"],
    &["status", "no-such"],
    &["restart", "shop/none"],
    &["restart", "shop"],
    &["logs", "shop", "none"],
    &["stop", "no-such"],
    &["--no-autostart", "wrong", "--token=planted-usage"],
    &["hub", "stop"],
];

/// Fault 68.
#[tokio::test]
async fn secrets_appear_in_no_output_and_no_other_file() -> Result<()> {
    let lab = Lab::new()?.with("LINCHPIN_LOG", "trace").with("SERVICE_API_KEY", "planted-variable");
    let mut said = Said::default();
    shop(&lab, &mut said).await?;
    broken(&lab).await?;
    let (holder, port) = holder()?;
    let (port, pid) = (port.to_string(), holder.0.id().to_string());
    let (report, url) = (lab.state("report").display().to_string(), format!("http://me:planted-url@127.0.0.1:{port}"));
    let filled = [("PORT", &port), ("PID", &pid), ("URL", &url), ("REPORT", &report)];
    for verb in VERBS {
        let fill = |word: &'static str| filled.iter().find(|(name, _)| *name == word).map_or(word, |(_, text)| text);
        said.drive(&lab, &verb.iter().map(|word| fill(word)).collect::<Vec<_>>()).await?;
    }
    // A taken port without a running hub, and invalid settings.
    said.drive(&lab, &["hub", "--port", &port]).await?;
    ensure!(said.tells("This port is taken") && said.tells("DB_PASSWORD=[removed]"), "the holder is not named");
    for settings in ["[hub]\nport = = 1 # token = \"planted-setting\"", "[hub]\ntoken = \"planted-setting\""] {
        std::fs::write(lab.home().join("config.toml"), settings)?;
        for verb in [&["status"][..], &["config", "show"], &["doctor"], &["run", "--", "true"]] {
            said.drive(&lab, verb).await?;
        }
    }
    ensure!(said.tells("The settings cannot be used"), "the settings are not named");
    std::fs::remove_file(lab.home().join("config.toml"))?;
    said.drive(&lab, &["doctor", "--save", "-"]).await?;
    searched(&lab, said, &report).await?;
    lab.terminate().await
}

/// Checks that no secret is in an output, an answer of the API, or a file.
async fn searched(lab: &Lab, mut said: Said, report: &str) -> Result<()> {
    lab.json(&["status"]).await?;
    let secrets = secrets(lab)?;
    let token = lab.hub_facts()?.token;
    for path in ["/health", "/status", "/v1/instances/shop", "/v1/instances/shop/link", "/v1/none", "/v1/proof"] {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nLinchpin-Nonce: x\r\nConnection: close\r\n\r\n"
        );
        said.0.push((path.to_owned(), lab.raw(&request).await?.1));
    }
    let mut paths = vec![PathBuf::from(report)];
    files(&lab.home(), &mut paths)?;
    for name in ["hub.log", "main.log", "report"] {
        ensure!(paths.iter().any(|path| path.ends_with(name)), "{name} is not in {paths:?}");
    }
    for path in paths {
        said.0.push((path.display().to_string(), String::from_utf8_lossy(&std::fs::read(&path)?).into_owned()));
    }
    ensure!(said.tells(" TRACE "), "the log level was not trace");
    for (from, text) in &said.0 {
        // A mistyped word is repeated only to the person who typed it, and the answer of a tool is not changed.
        let own = from.contains("planted-usage") || from.contains(r#"shop__echo {"text""#);
        for secret in secrets.iter().filter(|_| !own) {
            let at = text.find(secret.as_str());
            let near = at.map(|at| text[..at].chars().rev().take(300).collect::<Vec<_>>().into_iter().rev().collect());
            assert_eq!(near, None::<String>, "{from} reveals {secret:?} from here");
        }
    }
    let numbers = json!({"outputs": said.0.len(), "secrets": secrets.len()});
    assert!(said.0.len() > 70, "{numbers}");
    Ok(())
}
