//! `linchpin status [NAME]`.
//!
//! Owns nothing but the question: [`linchpin_hub::render::status`] has how the answer looks.
//! Never: computes a state; all of it is the hub's answer.

use super::Context;
use super::client::{Client, segment};
use linchpin_hub::render::status::{all, one};
use linchpin_shared::problem::{Exit, Problem};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only this instance
    name: Option<String>,
}

pub(super) async fn main(context: &Context, args: Args) -> Result<Exit, Problem> {
    let client = Client::new(context).await?;
    match args.name {
        None => context.output.value(&client.get("/status").await?, all),
        Some(name) => {
            context.output.value(&client.get(&format!("/v1/instances/{}", segment(&name))).await?, one);
        }
    }
    Ok(Exit::Ok)
}
