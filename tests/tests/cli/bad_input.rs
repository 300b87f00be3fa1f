//! Bad input: each kind gets a clear problem with a next step and the right exit code, and harms nothing else.

use anyhow::{Context, Result, ensure};
use linchpin_tests::agent::Agent;
use linchpin_tests::kit;
use linchpin_tests::lab::Lab;
use linchpin_tests::lab::verb::{Output, check_problem};
use reqwest::StatusCode;
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

/// A hub with one echo server, `shop`.
async fn shop() -> Result<Lab> {
    let lab = Lab::new()?;
    lab.detached("shop", &kit::echo("shop")?).await?;
    Ok(lab)
}

const ECHO: &str = "shop__echo-shop";

async fn still_works(agent: &mut impl Agent) -> Result<()> {
    assert_eq!(agent.call(ECHO, json!({"message": "still"})).await?, "still", "nothing was lost");
    Ok(())
}

#[tokio::test]
async fn invalid_messages_get_the_right_code_in_a_live_session() -> Result<()> {
    let lab = shop().await?;
    let _hub = lab.hub().await?;
    lab.usable("shop").await?;
    let mut http = lab.http("/mcp").await?;
    for (body, code) in [
        ("{\"jsonrpc\":\"2.0\",\"id\":7,", -32700),
        ("", -32700),
        ("[{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"ping\"}]", -32600),
        ("{\"id\":7,\"method\":\"ping\"}", -32600),
        ("42", -32600),
    ] {
        let response = http.post_raw(body).await?;
        let (status, text) = (response.status(), response.text().await?);
        let json: Value = serde_json::from_str(&text).with_context(|| format!("{body:?}: {text}"))?;
        ensure!(status == StatusCode::BAD_REQUEST && json["error"]["code"] == code, "{body:?}: {status} {json}");
    }
    still_works(&mut http).await?;

    let mut shim = lab.shim(&[]).await?;
    for (line, code) in [("{\"jsonrpc\": \"2.0\", ", -32700), ("[]", -32600), ("null", -32600), ("\"\"", -32600)] {
        shim.line(line).await?;
        let wanted = |message: &Value| message["error"]["code"] == code;
        shim.first("an error", Duration::from_secs(5), wanted).await.with_context(|| line.to_owned())?;
        still_works(&mut shim).await?;
    }
    shim.close().await?;
    lab.finish().await
}

#[tokio::test]
async fn unknown_tools_and_missing_arguments_are_reported() -> Result<()> {
    let lab = shop().await?;
    let _hub = lab.hub().await?;
    lab.usable("shop").await?;
    let mut agent = lab.http("/mcp").await?;
    let unknown = json!({"name": "shop__echo-shpo", "arguments": {}});
    let error = agent.request("tools/call", unknown).await?.error()?;
    assert_eq!(error["code"], -32602, "{error}");
    assert_eq!(error["data"]["code"], "unknown_tool", "{error}");
    check_problem(&error["data"])?;
    ensure!(error.to_string().contains(ECHO), "the similar name is not suggested: {error}");
    for params in [json!({}), json!({"name": 7}), json!({"arguments": {}})] {
        let error = agent.request("tools/call", params.clone()).await?.error()?;
        assert_eq!(error["code"], -32602, "{params}: {error}");
    }
    let error = agent.request("resources/read", json!({})).await?.error()?;
    assert_eq!(error["code"], -32602, "{error}");
    let error = agent.request("no/such/method", json!({})).await?.error()?;
    assert_eq!(error["code"], -32601, "{error}");
    still_works(&mut agent).await?;

    let problem = lab.verb(["call", "shop__echo-shpo", "{}", "--json"]).await?.problem(3)?;
    assert_eq!(problem["code"], "unknown_tool", "{problem}");
    for arguments in [&["call"][..], &["call", ECHO, "not json"], &["run"], &["stop"], &["explain"], &["nonsense"]] {
        let said = lab.verb(arguments).await?.exits(2)?;
        ensure!(!said.stderr.is_empty(), "{arguments:?} says nothing");
    }
    for verb in ["explain", "logs", "stop", "restart"] {
        let problem = lab.verb([verb, "nobody", "--json"]).await?.problem(3)?;
        assert_eq!(problem["code"], "instance_not_found", "{verb}: {problem}");
    }
    lab.finish().await
}

#[tokio::test]
async fn missing_command_registers_nothing() -> Result<()> {
    let lab = Lab::new()?;
    let plain = lab.project("x")?.join("plain");
    std::fs::write(&plain, "not executable")?;
    for command in ["/no/such/command", "no-such-command-anywhere", &plain.display().to_string()] {
        for flags in [&[][..], &["--mcp"], &["--mcp", "--detach"]] {
            let arguments = ["run", "--json", "--name", "ghost"].into_iter().chain(flags.iter().copied());
            let problem = lab.verb(arguments.chain(["--", command])).await?.problem(1)?;
            assert_eq!(problem["code"], "command_not_found", "{problem}");
            ensure!(problem.to_string().contains(command), "the holder is not named: {problem}");
        }
    }
    for name in ["Not A Name", "a--b", ""] {
        let problem = lab.verb(["run", "--json", "--name", name, "--", "true"]).await?.problem(2)?;
        assert_eq!(problem["code"], "bad_name", "{problem}");
    }
    lab.nothing_is_left().await
}

#[tokio::test]
async fn taken_name_reports_its_holder_and_next_steps() -> Result<()> {
    let lab = shop().await?;
    let _hub = lab.hub().await?;
    let holder = lab.usable("shop").await?;
    let elsewhere = lab.project("elsewhere")?;
    let start = |flags: &[&str]| -> Result<tokio::process::Command> {
        let mut command = lab.linchpin(["run", "--json", "--name", "shop", "--mcp", "--detach"]);
        command.args(flags).arg("--").args(kit::echo("second")?).current_dir(&elsewhere);
        Ok(command)
    };
    for dir in [elsewhere.as_path(), lab.dir()] {
        let mut command = start(&[])?;
        command.current_dir(dir);
        let problem = Output::of(command).await?.problem(4)?;
        assert_eq!(problem["code"], "name_taken", "{problem}");
        let seen = &problem["observed"];
        assert_eq!((&seen["pid"], &seen["project"]), (&holder["pid"], &holder["project_dir"]), "{problem}");
        ensure!(seen["command"].is_string() && seen["since"].is_string(), "{problem}");
        let steps = problem["next_steps"].to_string();
        ensure!(steps.contains("--take-over") && steps.contains("--alongside"), "{steps}");
    }
    assert_eq!(lab.usable("shop").await?["generation"], holder["generation"], "the holder is untouched");

    Output::of(start(&["--alongside"])?).await?.exits(0)?;
    lab.usable("shop-2").await?;
    Output::of(start(&["--take-over"])?).await?.exits(0)?;
    let old = holder["pid"].clone();
    lab.shows("shop", "is another", |instance| instance["state"] == "active" && instance["pid"] != old).await?;
    let mut agent = lab.http("/mcp").await?;
    lab.wait_for("the new one answers", async || agent.call("shop__echo-second", json!({"message": "x"})).await)
        .await?;
    agent.close().await?;
    lab.finish().await
}

#[tokio::test]
async fn taken_port_and_second_hub_are_reported() -> Result<()> {
    let lab = Lab::new()?;
    let stranger = std::net::TcpListener::bind(("127.0.0.1", 0))?;
    let taken = stranger.local_addr()?.port().to_string();
    let problem = lab.verb(["hub", "--port", &taken, "--json"]).await?.problem(4)?;
    assert_eq!(problem["code"], "port_taken", "{problem}");
    ensure!(problem.to_string().contains(&taken), "the port is named: {problem}");
    ensure!(lab.mark().processes().is_empty(), "nothing stays");

    let hub = lab.hub().await?;
    let first = lab.verb(["hub", "--json"]).await?.json()?;
    assert_eq!(first["pid"], hub.pid(), "a second start reports the first hub and succeeds");
    let problem = lab.verb(["hub", "--port", &taken, "--json"]).await?.problem(4)?;
    assert_eq!(problem["code"], "hub_running", "another port was asked for, but it did not fail: {problem}");
    ensure!(problem.to_string().contains(&hub.pid().to_string()), "the first is named: {problem}");
    assert_eq!(lab.hub_facts()?.pid, hub.pid(), "the first hub is untouched");
    lab.finish().await
}

#[tokio::test]
async fn verbs_without_a_hub_exit_with_5() -> Result<()> {
    let lab = Lab::new()?;
    for arguments in [&["status", "--json"][..], &["tools", "--json"], &["call", "x", "{}", "--json"]] {
        let problem = lab.verb(arguments).await?.problem(5)?;
        assert_eq!(problem["code"], "hub_unreachable", "{problem}");
    }
    lab.nothing_is_left().await
}

#[tokio::test]
async fn unusable_home_is_reported_and_not_repaired() -> Result<()> {
    let lab = Lab::new()?;
    std::fs::write(lab.home(), "a file")?;
    let unusable = ["home_unusable", "permission_denied"];
    for arguments in [&["status", "--json"][..], &["hub", "--json"], &["run", "--json", "--", "true"]] {
        let problem = lab.verb(arguments).await?.problem(1)?;
        ensure!(unusable.contains(&problem["code"].as_str().unwrap_or_default()), "{arguments:?}: {problem}");
        ensure!(problem.to_string().contains(&lab.home().display().to_string()), "the path is named: {problem}");
    }
    std::fs::remove_file(lab.home())?;
    std::fs::create_dir(lab.home())?;
    std::fs::set_permissions(lab.home(), std::fs::Permissions::from_mode(0o755))?;
    let problem = lab.verb(["hub", "--json"]).await?.problem(1)?;
    assert_eq!(problem["code"], "home_unusable", "{problem}");
    assert_eq!(std::fs::metadata(lab.home())?.permissions().mode() & 0o777, 0o755, "not repaired silently");

    let mut command = lab.linchpin(["status", "--json"]);
    command.env("LINCHPIN_HOME", "relative/path");
    let problem = Output::of(command).await?.problem(1)?;
    assert_eq!(problem["code"], "home_unusable", "{problem}");
    Ok(())
}

#[tokio::test]
async fn invalid_settings_are_reported_with_their_key() -> Result<()> {
    let lab = Lab::new()?;
    std::fs::create_dir(lab.home())?;
    std::fs::set_permissions(lab.home(), std::fs::Permissions::from_mode(0o700))?;
    for (text, word) in [("[hub]\nprot = 1\n", "prot"), ("[hub]\nport = \"x\"\n", "port"), ("[[[", "config.toml")] {
        std::fs::write(lab.home().join("config.toml"), text)?;
        let problem = lab.verb(["hub", "--json"]).await?.problem(2)?;
        assert_eq!(problem["code"], "bad_settings", "{problem}");
        ensure!(problem.to_string().contains(word), "{text:?}: {problem}");
    }
    lab.nothing_is_left().await
}
