//! `linchpin logs [-f] NAME [PROCESS]` prints what the processes of an instance wrote.
//!
//! The hub reads the log files. A log is printed byte for byte; with `--json` each line is put into an object of its
//! own.

use super::Context;
use super::client::{ApiClient, segment};
use futures_util::StreamExt;
use linchpin_hub::render::SCHEMA_VERSION;
use linchpin_shared::problem::{Code, Exit, Problem};
use std::io::Write;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The name of the instance
    name: String,
    /// Show only this process
    process: Option<String>,
    /// Continue to print lines as they are added
    #[arg(long, short)]
    follow: bool,
    /// How many lines to print from the end
    #[arg(long, short = 'n', default_value_t = 100)]
    lines: usize,
}

pub(super) async fn main(context: &Context, args: Args) -> Result<Exit, Problem> {
    let client = ApiClient::new(context).await?;
    let process = args.process.as_deref().map(|name| format!("&process={}", segment(name))).unwrap_or_default();
    let path =
        format!("/v1/instances/{}/logs?lines={}&follow={}{process}", segment(&args.name), args.lines, args.follow);
    let mut body = client.stream(&path).await?.bytes_stream();
    let mut rest = Vec::new();
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|error| {
            Problem::new(Code::HubUnreachable, format!("the connection broke while the log was read: {error}"))
        })?;
        rest.extend_from_slice(&chunk);
        if print_lines(&mut rest, context.output.is_json()).is_err() {
            break; // The reader has closed the pipe.
        }
    }
    Ok(Exit::Ok)
}

/// Prints the complete lines of `rest` and keeps what follows the last of them.
fn print_lines(rest: &mut Vec<u8>, json: bool) -> std::io::Result<()> {
    let Some(end) = rest.iter().rposition(|byte| *byte == b'\n') else { return Ok(()) };
    let mut out = std::io::stdout().lock();
    if json {
        for line in rest[..end].split(|byte| *byte == b'\n') {
            writeln!(
                out,
                "{}",
                serde_json::json!({"schema_version": SCHEMA_VERSION, "line": String::from_utf8_lossy(line)})
            )?;
        }
    } else {
        out.write_all(&rest[..=end])?;
    }
    rest.drain(..=end);
    out.flush()
}
