//! Clients that send too much, read too little and never end: each harms only itself, and the agent beside it is
//! served.

use anyhow::{Context, Result, bail, ensure};
use futures_util::StreamExt;
use linchpin_tests::agent::Agent;
use linchpin_tests::agent::http::Http;
use linchpin_tests::kit;
use linchpin_tests::lab::Lab;
use linchpin_tests::lab::running::{Running, peak_memory};
use linchpin_tests::raw::{Connection, established, most_files};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::task::JoinSet;

const ECHO: &str = "calm__echo-calm";

/// Adds a hub, a server that behaves, and an agent that uses it.
async fn with_agent(lab: Lab) -> Result<(Lab, Http)> {
    lab.hub().await.map(drop)?;
    lab.echo_instances(&["calm"]).await?;
    let agent = lab.http("/mcp").await?;
    Ok((lab, agent))
}

async fn still_served(lab: &Lab, agent: &mut Http) -> Result<()> {
    ensure!(agent.call(ECHO, json!({"message": "still"})).await? == "still", "the agent's session continues");
    ensure!(lab.status().await?["instances"].is_array(), "status continues to answer");
    Ok(())
}

fn call(id: &str, arguments: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"{ECHO}","arguments":{arguments}}}}}"#
    )
}

/// Fault 61: all kinds of odd messages, and their answers.
#[tokio::test]
async fn odd_messages_get_the_right_code_or_pass_unchanged() -> Result<()> {
    let (lab, mut agent) = with_agent(Lab::new()?).await?;
    let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
    for (body, status, code) in [
        (call("1", &format!(r#"{{"message":"x","more":{}}}"#, nested(100_000))), 413, -32600),
        (format!(r#"{{"jsonrpc":"2.0","id":1,"method":"x","params":{}}}"#, nested(100_000)), 413, -32600),
        (format!(r#"{{"jsonrpc":"2.0","id":{},"method":"ping"}}"#, nested(100_000)), 413, -32600),
        (nested(100_000), 413, -32600),
        (call("1,\"id\":2", "{}"), 400, -32600),
        (call(&format!("\"{}\"", "x".repeat(1 << 20)), "{}"), 400, -32600),
        (format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{}"}}"#, "m".repeat(1 << 20)), 400, -32600),
        (call("1", "{}").replace('}', "\u{0}}"), 400, -32700),
        (call("1", "{}").replace("2.0", "3.0"), 400, -32600),
        (call("{}", "{}"), 400, -32600),
        (call("null", "{}"), 400, -32600),
        ("\u{feff}".to_owned() + &call("1", "{}"), 400, -32700),
    ] {
        let response = agent.post_raw(body).await?;
        let (seen, answer): (u16, Value) = (response.status().as_u16(), response.json().await?);
        ensure!((seen, &answer["error"]["code"]) == (status, &json!(code)), "{status} {code}: {seen} {answer}");
        ensure!(answer.to_string().len() < 20_000, "the echo has the length that was sent");
    }
    // Odd but valid messages pass: the id returns as it was written, and the server judges the arguments.
    for (id, arguments) in [
        ("1.0", r#"{"message":"x","n":1e400,"n":-0}"#),
        ("18446744073709551616", r#"{"message":"x","\ud800":"\udfff"}"#),
        (r#""\u0041""#, r#"{"message":"x","z":"\u0000"}"#),
    ] {
        let answer = agent.post_raw(call(id, arguments)).await?.text().await?;
        ensure!(answer.contains(&format!("\"id\":{id}")), "{id}: {answer}");
        ensure!(answer.contains("\"result\"") || answer.contains("\"error\""), "{answer}");
    }
    let long = agent.request("tools/call", json!({"name": "x".repeat(8 << 20)})).await?.error()?;
    ensure!(long.to_string().len() < 20_000 && long["data"]["code"] == "unknown_tool", "it is not repeated");
    let token = json!({"name": ECHO, "arguments": {"message": "x"}, "_meta": {"progressToken": "t".repeat(2000)}});
    assert_eq!(agent.request("tools/call", token).await?.error()?["code"], -32602);
    still_served(&lab, &mut agent).await?;
    lab.finish().await
}

/// Fault 61: requests under one id at the same time each get an answer, and cancellations of unknown requests have no
/// effect.
#[tokio::test]
async fn duplicate_request_ids_get_their_own_answers() -> Result<()> {
    let (lab, mut agent) = with_agent(Lab::new()?).await?;
    let posts = (0..50).map(|n| agent.post_raw(call("7", &format!(r#"{{"message":"{n}"}}"#))));
    for (n, response) in futures_util::future::join_all(posts).await.into_iter().enumerate() {
        let answer: Value = response?.json().await?;
        assert_eq!((&answer["id"], &answer["result"]["content"][0]["text"]), (&json!(7), &json!(n.to_string())));
    }
    let nothing = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":7}}"#;
    let cancelled = (0..1000).map(|_| agent.post_raw(nothing.to_owned()));
    for response in futures_util::future::join_all(cancelled).await {
        assert_eq!(response?.status(), 202);
    }
    still_served(&lab, &mut agent).await?;
    lab.finish().await
}

/// The limits for one message and for all messages together.
const MOST: usize = 32 << 20;
const ALL: usize = 64 << 20;

/// Fault 61: messages beyond the limit are refused before they are read; too many messages within the limit are
/// refused with a time to retry, and the memory of the hub stays bounded.
#[tokio::test]
async fn large_messages_are_bounded_singly_and_together() -> Result<()> {
    let bounds = Lab::new()?
        .with("LINCHPIN_GATEWAY_MAX_MESSAGE_BYTES", &MOST.to_string())
        .with("LINCHPIN_GATEWAY_MAX_BUFFERED_BYTES", &ALL.to_string());
    let (lab, mut agent) = with_agent(bounds).await?;
    let facts = lab.hub_facts()?;
    let session = agent.session().context("no session")?.to_owned();
    let head = |length: &str| {
        format!(
            "POST /mcp HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nMcp-Session-Id: {session}\r\n\
             Content-Type: application/json\r\n{length}\r\n\r\n",
            facts.token
        )
    };
    refused_alone(&facts.url, head).await?;
    let waiting = refused_together(&facts.url, head).await?;
    still_served(&lab, &mut agent).await?;
    drop(waiting);
    let large = json!({"message": "x".repeat(10 << 20)});
    lab.wait_for("there is room again", async || agent.call(ECHO, large.clone()).await).await?;
    let peak = usize::try_from(peak_memory(facts.pid)?)?;
    ensure!(peak < 2 * ALL + (100 << 20), "{} MB", peak >> 20);
    lab.finish().await
}

/// A message with a length is refused at once, one without when it has become too large.
async fn refused_alone(url: &str, head: impl Fn(&str) -> String) -> Result<()> {
    let mut announced = Connection::open(url).await?;
    announced.send(head(&format!("Content-Length: {}", MOST + 1)).as_bytes()).await?;
    assert_eq!(announced.answer().await?.status, 413);
    let mut silent = Connection::open(url).await?;
    silent.send(head("Transfer-Encoding: chunked").as_bytes()).await?;
    let chunk = [format!("{:x}\r\n", 1 << 20).into_bytes(), vec![b' '; 1 << 20], b"\r\n".to_vec()].concat();
    // The hub answers while the client still sends, and then closes.
    for _ in 0..64 {
        if silent.send(&chunk).await.is_err() {
            break;
        }
    }
    assert_eq!(silent.answer().await?.status, 413);
    Ok(())
}

/// Of ten messages that stop one byte before their end, three fit into the buffer and are returned; the others are
/// refused.
async fn refused_together(url: &str, head: impl Fn(&str) -> String) -> Result<Vec<Connection>> {
    let (mut waiting, mut refused) = (Vec::new(), 0);
    for _ in 0..10 {
        let mut connection = Connection::open(url).await?;
        connection.send(head(&format!("Content-Length: {}", 20 << 20)).as_bytes()).await?;
        if connection.send(&vec![b' '; (20 << 20) - 1]).await.is_ok() && !connection.is_answered().await {
            waiting.push(connection);
            continue;
        }
        let answer = connection.answer().await?;
        ensure!(answer.status == 503 && answer.head.contains("retry-after"), "{}", answer.head);
        refused += 1;
    }
    ensure!(waiting.len() <= 3 && refused >= 7, "{} wait", waiting.len());
    Ok(waiting)
}

/// Fault 62: a client that never reads its answers is disconnected, and its memory is freed.
#[tokio::test]
async fn client_that_never_reads_is_disconnected() -> Result<()> {
    let (lab, mut agent) = with_agent(Lab::new()?.with("LINCHPIN_HUB_UNREAD_TIMEOUT_MS", "1000")).await?;
    let facts = lab.hub_facts()?;
    let session = agent.session().context("no session")?.to_owned();
    let mut deaf = Vec::new();
    for n in 0..4 {
        let mut connection = Connection::open(&facts.url).await?;
        let body = call(&n.to_string(), &format!(r#"{{"message":"{}"}}"#, "x".repeat(12 << 20)));
        connection.post("/mcp", &facts.token, Some(&session), &body).await?;
        deaf.push(connection);
    }
    let port = |connection: &Connection| connection.port();
    let ports: Vec<u16> = deaf.iter().map(port).collect::<Result<_>>()?;
    lab.wait_for("they are cut off", async || {
        still_served(&lab, &mut agent).await?;
        let left: Vec<_> = ports.iter().filter(|port| established(facts.pid, **port).unwrap_or(true)).collect();
        ensure!(left.is_empty(), "{left:?} are still connected");
        Ok(())
    })
    .await?;
    drop(deaf);
    lab.finish().await
}

/// Fault 62: new sessions without end. They evict each other and not that of the agent, and the journal contains none
/// of them.
#[tokio::test]
async fn flood_of_new_sessions_evicts_only_its_own() -> Result<()> {
    const FLOOD: usize = 3000;
    let (lab, mut agent) = with_agent(Lab::new()?.with("LINCHPIN_GATEWAY_MAX_SESSIONS", "100")).await?;
    let _stream = agent.listen().await?;
    let mut quiet = lab.http("/mcp").await?;
    ensure!(quiet.request("logging/setLevel", json!({"level": "debug"})).await?.result().is_ok(), "the level is set");
    let facts = lab.hub_facts()?;
    let mut floods = JoinSet::new();
    for _ in 0..8 {
        let (url, token) = (facts.url.clone(), facts.token.clone());
        floods.spawn(async move {
            let mut connection = Connection::open(&url).await?;
            for _ in 0..FLOOD / 8 {
                connection.post("/mcp", &token, None, INITIALIZE).await?;
                let answer = connection.answer().await?;
                ensure!(answer.status == 200, "{}", answer.head);
            }
            anyhow::Ok(())
        });
    }
    while let Some(flood) = floods.join_next().await {
        flood??;
        still_served(&lab, &mut agent).await?;
    }
    let journal = std::fs::metadata(lab.home().join("journal.db"))?.len();
    ensure!(journal < 1 << 20, "the journal has {journal} bytes");
    assert_eq!(quiet.call(ECHO, json!({"message": "x"})).await?, "x", "the session was forgotten");
    lab.finish().await
}

const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"flood","version":"1"}}}"#;

/// Fault 62: more streams than the limit, and more than there are descriptors. The others are refused with a time to
/// retry.
#[tokio::test]
async fn flood_of_streams_leaves_room_for_requests() -> Result<()> {
    let clients = usize::try_from(most_files()?)?.saturating_sub(500).min(10_000);
    ensure!(clients >= 1000, "this system allows {} open files: too few for this test", most_files()?);
    let bounds = Lab::new()?
        .with("LINCHPIN_HUB_MAX_CONNECTIONS", &(clients / 2).to_string())
        .with("LINCHPIN_GATEWAY_MAX_STREAMS", &clients.to_string());
    let (lab, mut agent) = with_agent(bounds).await?;
    let facts = lab.hub_facts()?;
    let before = peak_memory(facts.pid)?;
    let opening = futures_util::stream::iter(0..clients).map(|_| stream(&facts.url, &facts.token));
    // Some connections lost their place to another before they sent anything.
    let opened: Vec<_> = opening.buffer_unordered(32).collect().await;
    let streams = opened.iter().filter(|opened| opened.as_ref().is_ok_and(|(_, status)| *status == 200)).count();
    let most = clients / 2 / 4 * 3;
    ensure!(streams == most, "{streams} streams, {} refused", clients - streams);
    still_served(&lab, &mut agent).await?;
    let each = (peak_memory(facts.pid)? - before) / streams as u64;
    ensure!(each < 100 << 10, "{each} bytes a stream");
    drop(opened);
    lab.wait_for("there is room again", async || match stream(&facts.url, &facts.token).await? {
        (_, 200) => Ok(()),
        (_, status) => bail!("{status}"),
    })
    .await?;
    still_served(&lab, &mut agent).await?;
    lab.finish().await
}

/// Begins a session and opens its stream; returns the status of the last answer.
async fn stream(url: &str, token: &str) -> Result<(Connection, u16)> {
    let mut connection = Connection::open(url).await?;
    connection.post("/mcp", token, None, INITIALIZE).await?;
    let answer = connection.answer().await?;
    if answer.status != 200 {
        return Ok((connection, answer.status));
    }
    let session = answer.header("mcp-session-id").context("no session")?.to_owned();
    connection.get("/mcp", token, &session).await?;
    let status = connection.head().await?.status;
    Ok((connection, status))
}

/// Fault 62: a hub that may open few files serves as many connections as it can.
#[tokio::test]
async fn hub_with_few_descriptors_refuses_and_goes_on() -> Result<()> {
    let lab = Lab::new()?;
    let mut command = lab.command("sh");
    command.args(["-c", "ulimit -n 200; exec \"$0\" hub"]).arg(lab.binary());
    let mut hub = Running::start(command, lab.dir().join("out/hub.log"))?;
    lab.hub_answers(Some(&mut hub)).await?;
    lab.echo_instances(&["calm"]).await?;
    let mut agent = lab.http("/mcp").await?;
    let facts = lab.hub_facts()?;
    let (mut open, mut refused) = (Vec::new(), 0);
    for _ in 0..300 {
        match stream(&facts.url, &facts.token).await {
            Ok((connection, 200)) => open.push(connection),
            Ok((_, 503)) => refused += 1,
            other => bail!("{:?}", other.map(|(_, status)| status)),
        }
    }
    assert_eq!((open.len(), refused), (75, 225), "three quarters of half of them");
    still_served(&lab, &mut agent).await?;
    drop(open);
    lab.finish().await
}

/// Fault 62: notifications and subscriptions without end.
#[tokio::test]
async fn client_notifications_to_servers_are_bounded() -> Result<()> {
    let (lab, mut agent) = with_agent(Lab::new()?).await?;
    lab.detached("hostile", &kit::hostile("plain", &lab.dir().join("starts"))?).await?;
    lab.usable("hostile").await?;
    let mut flooder = lab.http("/mcp").await?;
    let news = r#"{"jsonrpc":"2.0","method":"notifications/roots/list_changed"}"#;
    for _ in 0..20 {
        let posts = (0..100).map(|_| flooder.post_raw(news.to_owned()));
        let (posted, served) = tokio::join!(futures_util::future::join_all(posts), still_served(&lab, &mut agent));
        served?;
        for response in posted {
            response?.error_for_status()?;
        }
    }
    for n in 0..200 {
        let level = if n % 2 == 0 { "debug" } else { "error" };
        flooder.request("logging/setLevel", json!({"level": level})).await?.result()?;
    }
    let told = lab.wait_for("the server has received it", async || {
        let told: Value = serde_json::from_str(&agent.call("hostile__stats", json!({})).await?)?;
        ensure!(told["roots"].as_u64() > Some(0) && told["levels"].as_u64() > Some(0), "{told}");
        Ok(told)
    });
    let told = told.await?;
    ensure!(told["roots"].as_u64() < Some(2000), "not each of 2,000 was delivered: {told}");
    let uri = format!("x://{}", "y".repeat(10_000));
    let error = flooder.request("resources/subscribe", json!({"uri": uri})).await?.error()?;
    assert_eq!(error["data"]["code"], "overloaded", "{error}");
    still_served(&lab, &mut agent).await?;
    lab.finish().await
}

/// Fault 61 and 65: a session id that is guessed, shortened, lengthened or used at another path is refused.
#[tokio::test]
async fn session_id_cannot_be_guessed() -> Result<()> {
    let (lab, mut agent) = with_agent(Lab::new()?).await?;
    let own = agent.session().context("no session")?.to_owned();
    let mut guesses = vec![own[..own.len() - 1].to_owned(), format!("{own}A"), own.to_uppercase(), "x".repeat(60_000)];
    guesses.extend((0..own.len()).step_by(7).map(|at| {
        let other = if own.as_bytes()[at] == b'A' { "B" } else { "A" };
        format!("{}{other}{}", &own[..at], &own[at + 1..])
    }));
    let mut guesser = lab.http("/mcp").await?;
    for guess in &guesses {
        guesser.pretend(guess);
        let response = guesser.post_raw(call("1", r#"{"message":"x"}"#)).await?;
        ensure!(matches!(response.status().as_u16(), 404 | 431), "{guess:.100}: {}", response.status());
    }
    let mut elsewhere = lab.http("/i/calm/mcp").await?;
    elsewhere.pretend(&own);
    assert_eq!(elsewhere.post_raw(call("1", "{}")).await?.status(), 404);
    tokio::time::timeout(Duration::from_secs(10), still_served(&lab, &mut agent)).await??;
    lab.finish().await
}
