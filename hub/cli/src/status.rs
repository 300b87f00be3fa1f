//! `linchpin status [NAME]` prints what the hub knows. [`linchpin_hub::render::status`] formats it.

use super::Context;
use super::client::{ApiClient, segment};
use linchpin_hub::render::status::{instance, overview};
use linchpin_shared::problem::{Exit, Problem};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Show only this instance
    name: Option<String>,
}

pub(super) async fn main(context: &Context, args: Args) -> Result<Exit, Problem> {
    let client = ApiClient::new(context).await?;
    match args.name {
        None => context.output.value(&client.get("/status").await?, overview),
        Some(name) => {
            context.output.value(&client.get(&format!("/v1/instances/{}", segment(&name))).await?, instance);
        }
    }
    Ok(Exit::Ok)
}
