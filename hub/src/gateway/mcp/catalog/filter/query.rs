//! A choice as it stands in an address.
//!
//! Owns the parameters: `only` and `except` (patterns with commas between them), `project` (a directory),
//! `project_only=true`, and `tools=all|search`.
//! Invariant: a parameter that does not exist, or cannot be read, is refused: one that is silently ignored would show
//! what should be hidden. What is written reads back as the same choice. Never: reads a token.

use super::{Filter, FilterRules, ProjectFilter};
use axum::extract::Query;
use linchpin_shared::pattern::Pattern;
use linchpin_shared::problem::{Code, Problem};
use linchpin_shared::settings::ToolListing;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

const PARAMETERS: &str = "only, except, project, project_only, tools";

impl Filter {
    /// Reads the query of an address.
    ///
    /// # Errors
    /// [`Code::BadRequest`] for a parameter that does not exist or cannot be used.
    pub(crate) fn read(rules: &Arc<FilterRules>, query: Option<&str>) -> Result<Self, Problem> {
        let uri = http::Uri::builder().path_and_query(format!("/?{}", query.unwrap_or_default())).build();
        let pairs = uri.ok().and_then(|uri| Query::<Vec<(String, String)>>::try_from_uri(&uri).ok());
        let Query(pairs) = pairs.ok_or_else(|| refused("the query of the address cannot be read"))?;
        let mut filter = Self::of(rules);
        let (mut dir, mut alone) = (None, false);
        for (key, value) in pairs {
            match (key.as_str(), value.as_str()) {
                ("only", list) => patterns(list, &mut filter.only)?,
                ("except", list) => patterns(list, &mut filter.except)?,
                ("project", path) if path.starts_with('/') => dir = Some(PathBuf::from(path)),
                ("project", _) => return Err(refused("project must be an absolute directory")),
                ("project_only", "true" | "false") => alone = value == "true",
                ("tools", "all") => filter.tools = Some(ToolListing::All),
                ("tools", "search") => filter.tools = Some(ToolListing::Search),
                ("project_only" | "tools", _) => return Err(refused(&format!("{key} cannot be {value:?}"))),
                _ => return Err(refused(&format!("there is no parameter {key:?}"))),
            }
        }
        match dir {
            Some(dir) => filter.project = Some(ProjectFilter { dir, alone }),
            None if alone => return Err(refused("project_only needs project")),
            None => {}
        }
        Ok(filter)
    }
}

fn refused(detail: &str) -> Problem {
    Problem::new(Code::BadRequest, detail)
        .seen("parameters", PARAMETERS)
        .next("correct the address, for example /mcp?only=shop,blog/files/read_*&tools=search")
}

/// Adds the patterns of a list, sorted, so that the same choice is always the same.
fn patterns(list: &str, to: &mut Vec<Pattern>) -> Result<(), Problem> {
    for text in list.split(',') {
        to.push(Pattern::parse(text.trim())?);
    }
    to.sort();
    to.dedup();
    Ok(())
}

/// The query with its question mark; nothing where nothing was chosen.
impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |patterns: &[Pattern]| patterns.iter().map(Pattern::to_string).collect::<Vec<_>>().join(",");
        let mut parts = Vec::new();
        if !self.only.is_empty() {
            parts.push(format!("only={}", list(&self.only)));
        }
        if !self.except.is_empty() {
            parts.push(format!("except={}", list(&self.except)));
        }
        if let Some(ProjectFilter { dir, alone }) = &self.project {
            parts.push(format!("project={}", dir.display()));
            parts.extend(alone.then(|| String::from("project_only=true")));
        }
        parts.extend(self.tools.map(|tools| match tools {
            ToolListing::All => String::from("tools=all"),
            ToolListing::Search => String::from("tools=search"),
        }));
        if parts.is_empty() { Ok(()) } else { write!(f, "?{}", parts.join("&")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(query: &str) -> Result<Filter, Problem> {
        Filter::read(&Arc::default(), Some(query))
    }

    #[test]
    fn what_is_written_reads_back_and_order_does_not_matter() {
        let one = read("tools=search&only=b&only=a%2Fx%2F*&project=/p&project_only=true&except=c").unwrap();
        assert_eq!(one.to_string(), "?only=a/x/*,b&except=c&project=/p&project_only=true&tools=search");
        assert_eq!(read(&one.to_string()[1..]).unwrap(), one);
        assert_eq!(read("").unwrap().to_string(), "");
        assert_eq!(Filter::read(&Arc::default(), None).unwrap(), read("").unwrap());
    }

    #[test]
    fn what_cannot_be_used_is_refused() {
        for query in [
            "onyl=shop",
            "only=",
            "only=shop__x",
            "tools=some",
            "project=here",
            "project_only=true",
            "project_only=1&project=/p",
        ] {
            let problem = read(query).unwrap_err();
            assert!(problem.code == Code::BadRequest && !problem.next_steps.is_empty(), "{query}: {problem}");
        }
    }

    proptest! {
        #[test]
        fn any_query_is_read_or_refused(query: String) {
            let _ = read(&query);
        }
    }
}
