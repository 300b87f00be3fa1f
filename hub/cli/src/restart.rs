//! `linchpin restart NAME[/PROCESS]` asks an instance to restart its processes, or one of them.

use super::Context;
use super::client::{ApiClient, segment};
use linchpin_shared::problem::{Exit, Problem};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The instance, or one process of it
    #[arg(value_name = "NAME[/PROCESS]")]
    target: String,
}

pub(super) async fn main(context: &Context, args: Args) -> Result<Exit, Problem> {
    let (name, process) = match args.target.split_once('/') {
        Some((name, process)) => (name, Some(process)),
        None => (args.target.as_str(), None),
    };
    let query = process.map(|process| format!("?process={}", segment(process))).unwrap_or_default();
    let client = ApiClient::new(context).await?;
    let answer = client.post(&format!("/v1/instances/{}/restart{query}", segment(name))).await?;
    context.output.value(&answer, |_| format!("restarting {}", args.target));
    Ok(Exit::Ok)
}
