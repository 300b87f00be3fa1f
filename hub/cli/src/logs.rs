//! `linchpin logs [-f] NAME [PROCESS]`.
//!
//! Owns nothing but the way of the hub's bytes to standard output. A log is what a process wrote, so `--json` wraps
//! each line in an object instead of changing it. Never: reads a log file itself.

use super::Context;
use super::client::{Client, segment};
use futures_util::StreamExt;
use linchpin_shared::problem::{Code, Exit, Problem};
use std::io::Write;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The instance
    name: String,
    /// One process of it
    process: Option<String>,
    /// Go on printing what is added
    #[arg(long, short)]
    follow: bool,
    /// How many lines from the end
    #[arg(long, short = 'n', default_value_t = 100)]
    lines: usize,
}

pub(super) async fn main(context: &Context, args: Args) -> Result<Exit, Problem> {
    let client = Client::new(context).await?;
    let process = args.process.as_deref().map(|name| format!("&process={}", segment(name))).unwrap_or_default();
    let path =
        format!("/v1/instances/{}/logs?lines={}&follow={}{process}", segment(&args.name), args.lines, args.follow);
    let mut body = client.stream(&path).await?.bytes_stream();
    let mut rest = Vec::new();
    while let Some(chunk) = body.next().await {
        let chunk = chunk
            .map_err(|error| Problem::new(Code::HubUnreachable, format!("the log's stream broke off: {error}")))?;
        rest.extend_from_slice(&chunk);
        if print_lines(&mut rest, context.output.is_json()).is_err() {
            break; // the reader has seen enough
        }
    }
    Ok(Exit::Ok)
}

/// Prints the whole lines of `rest` and keeps what follows the last of them.
fn print_lines(rest: &mut Vec<u8>, json: bool) -> std::io::Result<()> {
    let Some(end) = rest.iter().rposition(|byte| *byte == b'\n') else { return Ok(()) };
    let mut out = std::io::stdout().lock();
    if json {
        for line in rest[..end].split(|byte| *byte == b'\n') {
            writeln!(out, "{}", serde_json::json!({"schema_version": 1, "line": String::from_utf8_lossy(line)}))?;
        }
    } else {
        out.write_all(&rest[..=end])?;
    }
    rest.drain(..=end);
    out.flush()
}
