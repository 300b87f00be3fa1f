//! `linchpin config show` prints each setting and where its value comes from. It needs no hub.

use super::Context;
use linchpin_hub::render::table;
use linchpin_shared::problem::{Exit, Problem};
use linchpin_shared::settings::Settings;
use serde_json::{Map, Value, json};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Show all settings
    Show {
        /// Also show where each value comes from
        #[arg(long)]
        origin: bool,
    },
}

pub(super) fn main(context: &Context, args: &Args) -> Result<Exit, Problem> {
    let Action::Show { origin } = args.action;
    let settings = Settings::load(&context.home)?;
    let shown: Map<String, Value> = settings
        .values()
        .map(|(key, value, from)| (key.to_owned(), json!({"value": value, "origin": from.to_string()})))
        .collect();
    let file = context.home.settings_file().display();
    context.output.value(&json!({"file": file.to_string(), "settings": shown}), |_| {
        let row = |(key, value, from): (&str, &dyn std::fmt::Display, String)| {
            let mut row = vec![key.to_owned(), value.to_string()];
            row.extend(origin.then_some(from));
            row
        };
        let rows: Vec<_> = settings.values().map(|(key, value, from)| row((key, value, from.to_string()))).collect();
        format!("settings file: {file}\n\n{}", table(&rows))
    });
    Ok(Exit::Ok)
}
