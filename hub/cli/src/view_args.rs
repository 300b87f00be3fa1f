//! The arguments that choose what `linchpin mcp` offers to its agent.
//!
//! They become part of the gateway's address, so they stay in force when the hub is restarted. A pattern that cannot be
//! used is refused here, at the terminal, and not by the hub at an agent's first message.

use super::client::segment;
use linchpin_shared::pattern::Pattern;
use linchpin_shared::problem::{Code, Problem};
use std::path::{Path, PathBuf};

/// Which instances, servers and tools an agent is offered.
#[derive(Debug, Default, clap::Args)]
pub(super) struct ViewArgs {
    /// Offer only these, separated by commas: INSTANCE[/SERVER[/TOOL]], where * and ? are wildcards
    #[arg(long, value_name = "PATTERNS", value_delimiter = ',')]
    only: Vec<String>,
    /// Offer everything but these
    #[arg(long, value_name = "PATTERNS", value_delimiter = ',')]
    except: Vec<String>,
    /// List the instances of this project first: those whose directory is DIR, or is inside or around it; the default
    /// of DIR is the current directory
    #[arg(long, value_name = "DIR", num_args = 0..=1, default_missing_value = ".")]
    project: Option<PathBuf>,
    /// Offer only the instances of the project
    #[arg(long)]
    project_only: bool,
    /// List all tools, or only a few with which the agent searches and calls the others
    #[arg(long, value_name = "HOW", value_parser = ["all", "search"])]
    tools: Option<String>,
    /// Offer one instance, or one server of it, with its original tool names
    #[arg(long, value_name = "NAME[/SERVER]")]
    instance: Option<String>,
}

impl ViewArgs {
    /// Returns the path of the gateway, with the query that makes it offer this.
    ///
    /// # Errors
    /// [`Code::BadRequest`] for a pattern that cannot be used, or a project directory that cannot be resolved.
    pub(super) fn gateway_path(&self) -> Result<String, Problem> {
        let mut query = Vec::new();
        for (key, patterns) in [("only", &self.only), ("except", &self.except)] {
            for text in patterns {
                query.push(format!("{key}={}", segment(&Pattern::parse(text.trim())?.to_string())));
            }
        }
        let here = self.project_only.then(|| PathBuf::from("."));
        if let Some(dir) = self.project.clone().or(here) {
            query.push(format!("project={}", segment(&absolute(&dir)?)));
        }
        query.extend(self.project_only.then(|| String::from("project_only=true")));
        query.extend(self.tools.iter().map(|how| format!("tools={how}")));
        let path = self.instance.as_ref().map_or_else(|| String::from("/mcp"), |name| instance_path(name));
        Ok(if query.is_empty() { path } else { format!("{path}?{}", query.join("&")) })
    }
}

fn instance_path(name: &str) -> String {
    let parts: Vec<String> = name.splitn(2, '/').map(segment).collect();
    format!("/i/{}/mcp", parts.join("/"))
}

/// Resolves links where the directory exists, because instances name their project that way.
fn absolute(dir: &Path) -> Result<String, Problem> {
    let found = dir.canonicalize().or_else(|_| std::path::absolute(dir));
    let found = found.map_err(|error| {
        let detail = format!("cannot resolve the directory {}", dir.display());
        Problem::from_io(&error, Code::BadRequest, detail).next("linchpin mcp --project /an/absolute/path")
    })?;
    Ok(found.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(all: &[&str]) -> Vec<String> {
        all.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn arguments_become_a_gateway_path() {
        assert_eq!(ViewArgs::default().gateway_path().unwrap(), "/mcp");
        let one = ViewArgs { instance: Some(String::from("shop/files")), ..ViewArgs::default() };
        assert_eq!(one.gateway_path().unwrap(), "/i/shop/files/mcp");
        let some = ViewArgs {
            only: strings(&["shop", "blog/*/a"]),
            except: strings(&["shop/db"]),
            project: Some(PathBuf::from("/")),
            project_only: true,
            tools: Some(String::from("search")),
            instance: None,
        };
        let expected = "/mcp?only=shop&only=blog%2F%2A%2Fa&except=shop%2Fdb&project=%2F&project_only=true&tools=search";
        assert_eq!(some.gateway_path().unwrap(), expected);
        let here = ViewArgs { project_only: true, ..ViewArgs::default() };
        assert!(here.gateway_path().unwrap().starts_with("/mcp?project=%2F"));
    }

    #[test]
    fn a_pattern_that_cannot_match_is_refused() {
        let wrong = ViewArgs { only: strings(&["shop__read"]), ..ViewArgs::default() };
        assert_eq!(wrong.gateway_path().unwrap_err().code, Code::BadRequest);
    }
}
