//! What `linchpin mcp` asks the hub to show.
//!
//! Owns [`Shown`], its flags, and the address of the gateway that they come to. The hub does the choosing: a choice is
//! part of the address, so it holds for every life of the hub.
//! Invariant: a pattern that cannot be used is refused here, at the terminal of who writes it, and not by the hub at an
//! agent's first message. Never: asks the hub.

use super::client::segment;
use linchpin_shared::pattern::Pattern;
use linchpin_shared::problem::{Code, Problem};
use std::path::{Path, PathBuf};

/// Which instances, servers and tools an agent is offered.
#[derive(Debug, Default, clap::Args)]
pub(super) struct Shown {
    /// Offer only these, with commas between them: INSTANCE[/SERVER[/TOOL]], where * and ? stand for anything
    #[arg(long, value_name = "PATTERNS", value_delimiter = ',')]
    only: Vec<String>,
    /// Offer none of these
    #[arg(long, value_name = "PATTERNS", value_delimiter = ',')]
    except: Vec<String>,
    /// Offer the instances of this project first: of the directory (the present one, if none is given), within it or around it
    #[arg(long, value_name = "DIR", num_args = 0..=1, default_missing_value = ".")]
    project: Option<PathBuf>,
    /// Offer the instances of the project and no others
    #[arg(long)]
    project_only: bool,
    /// List all tools, or a few with which the others are searched and called
    #[arg(long, value_name = "HOW", value_parser = ["all", "search"])]
    tools: Option<String>,
    /// Offer one instance, or one server of it, under its own tool names
    #[arg(long, value_name = "NAME[/SERVER]")]
    instance: Option<String>,
}

impl Shown {
    /// The address of the gateway that shows this.
    ///
    /// # Errors
    /// [`Code::BadRequest`] for a pattern that cannot be used; what is wrong with the project's directory.
    pub(super) fn address(&self) -> Result<String, Problem> {
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
        let path = self.instance.as_ref().map_or_else(|| String::from("/mcp"), |name| own_path(name));
        Ok(if query.is_empty() { path } else { format!("{path}?{}", query.join("&")) })
    }
}

fn own_path(name: &str) -> String {
    let parts: Vec<String> = name.splitn(2, '/').map(segment).collect();
    format!("/i/{}/mcp", parts.join("/"))
}

/// As instances name their project: without links, where it exists.
fn absolute(dir: &Path) -> Result<String, Problem> {
    let found = dir.canonicalize().or_else(|_| std::path::absolute(dir));
    let found = found.map_err(|error| {
        let detail = format!("cannot tell which directory {} is", dir.display());
        Problem::from_io(&error, Code::BadRequest, detail).next("linchpin mcp --project /the/whole/path")
    })?;
    Ok(found.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(all: &[&str]) -> Vec<String> {
        all.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn flags_come_to_an_address() {
        assert_eq!(Shown::default().address().unwrap(), "/mcp");
        let one = Shown { instance: Some(String::from("shop/files")), ..Shown::default() };
        assert_eq!(one.address().unwrap(), "/i/shop/files/mcp");
        let some = Shown {
            only: texts(&["shop", "blog/*/a"]),
            except: texts(&["shop/db"]),
            project: Some(PathBuf::from("/")),
            project_only: true,
            tools: Some(String::from("search")),
            instance: None,
        };
        let wanted = "/mcp?only=shop&only=blog%2F%2A%2Fa&except=shop%2Fdb&project=%2F&project_only=true&tools=search";
        assert_eq!(some.address().unwrap(), wanted);
        let here = Shown { project_only: true, ..Shown::default() };
        assert!(here.address().unwrap().starts_with("/mcp?project=%2F"));
    }

    #[test]
    fn a_pattern_that_cannot_match_is_refused() {
        let wrong = Shown { only: texts(&["shop__read"]), ..Shown::default() };
        assert_eq!(wrong.address().unwrap_err().code, Code::BadRequest);
    }
}
