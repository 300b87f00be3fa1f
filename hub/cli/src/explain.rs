//! `linchpin explain NAME` prints the history of an instance's link. [`linchpin_hub::render::explain`] formats it.

use super::Context;
use super::client::{ApiClient, segment};
use linchpin_hub::render::explain::explain;
use linchpin_shared::problem::{Exit, Problem};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The name of the instance
    name: String,
    /// How many of the last transitions to show; the hub keeps 200
    #[arg(long, short = 'n', default_value_t = 20)]
    lines: usize,
}

pub(super) async fn main(context: &Context, args: Args) -> Result<Exit, Problem> {
    let client = ApiClient::new(context).await?;
    let link = client.get(&format!("/v1/instances/{}/link", segment(&args.name))).await?;
    context.output.value(&link, |link| explain(link, args.lines));
    Ok(Exit::Ok)
}
