//! The coding agents whose files are read: where each has them, and how servers stand in them.
//!
//! Owns [`Agent`], [`Source`] (one file) and [`Site`] (one object of servers in it). Invariant: each file is there once,
//! whatever leads to it; a site belongs to a project or to the whole user. Never: opens a file.

use super::vars::Dialect;
use linchpin_shared::problem::{Code, Problem};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A coding agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Agent {
    ClaudeCode,
    ClaudeDesktop,
    Cursor,
    VsCode,
    Codex,
    Gemini,
}

impl Agent {
    /// Its name for people.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::ClaudeCode => "Claude Code",
            Self::ClaudeDesktop => "Claude Desktop",
            Self::Cursor => "Cursor",
            Self::VsCode => "VS Code",
            Self::Codex => "Codex",
            Self::Gemini => "Gemini CLI",
        }
    }

    /// How it writes variables.
    pub(super) const fn dialect(self) -> Dialect {
        match self {
            Self::ClaudeCode => Dialect::Shell,
            Self::ClaudeDesktop | Self::Codex => Dialect::None,
            Self::Cursor | Self::VsCode => Dialect::Editor,
            Self::Gemini => Dialect::Dollar,
        }
    }

    const fn key(self) -> &'static str {
        match self {
            Self::VsCode => "servers",
            Self::Codex => "mcp_servers",
            Self::ClaudeCode | Self::ClaudeDesktop | Self::Cursor | Self::Gemini => "mcpServers",
        }
    }
}

/// One object of servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Site {
    /// The keys that lead to it.
    pub(super) path: Vec<String>,
    /// The project that it belongs to; none for the whole user.
    pub(super) project: Option<PathBuf>,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) agent: Agent,
    pub(super) file: PathBuf,
    /// Where servers may stand in it.
    pub(super) sites: Vec<Site>,
}

/// Where this user's files are.
#[derive(Debug, Clone)]
pub(super) struct Places {
    pub(super) home: PathBuf,
    pub(super) env: BTreeMap<String, String>,
    /// The present project.
    pub(super) project: PathBuf,
}

/// The files of a project, with whose they are.
const OF_PROJECT: [(&str, Agent); 5] = [
    (".mcp.json", Agent::ClaudeCode),
    (".cursor/mcp.json", Agent::Cursor),
    (".vscode/mcp.json", Agent::VsCode),
    (".codex/config.toml", Agent::Codex),
    (".gemini/settings.json", Agent::Gemini),
];

impl Places {
    /// The project of this directory: the nearest one above it that has an agent's file or a repository; but never the
    /// home itself, whose files are the user's.
    pub(super) fn project_of(dir: &Path, home: &Path) -> PathBuf {
        let is_one = |dir: &&Path| {
            *dir != home && (OF_PROJECT.iter().any(|(file, _)| dir.join(file).is_file()) || dir.join(".git").exists())
        };
        let below = dir.ancestors().take_while(|above| *above != home);
        below.into_iter().find(is_one).unwrap_or(dir).to_owned()
    }

    /// All files, those of the project first, whether they exist or not.
    pub(super) fn all(&self) -> Vec<Source> {
        let of_project = OF_PROJECT.iter().filter(|_| self.project != self.home);
        let mut all: Vec<Source> =
            of_project.map(|(file, agent)| self.project_file(*agent, &self.project, file)).collect();
        all.extend(self.of_user());
        all
    }

    /// The one that this file is, by its name and place.
    ///
    /// # Errors
    /// [`Code::BadRequest`] when it is none of an agent's files.
    pub(super) fn one(&self, file: &Path) -> Result<Source, Problem> {
        let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
        if let Some(known) = self.of_user().into_iter().find(|source| source.file == file) {
            return Ok(known);
        }
        let found = OF_PROJECT.iter().find_map(|(tail, agent)| {
            let depth = Path::new(tail).components().count();
            file.ends_with(tail).then(|| self.project_file(*agent, file.ancestors().nth(depth).unwrap_or(&file), tail))
        });
        let by_name = || {
            let name = file.file_name()?.to_str()?;
            let agent = match name {
                ".claude.json" => Agent::ClaudeCode,
                "claude_desktop_config.json" => Agent::ClaudeDesktop,
                "mcp.json" if file.parent()?.ends_with("User") => Agent::VsCode,
                _ => return None,
            };
            Some(self.user_file(agent, file.clone()))
        };
        found.or_else(by_name).ok_or_else(|| {
            Problem::new(Code::BadRequest, format!("{} is no file of an agent that is known", file.display()))
                .seen("known", "Claude Code, Claude Desktop, Cursor, VS Code, Codex, Gemini CLI")
                .next("linchpin import    (without a file: all that are found)")
        })
    }

    fn project_file(&self, agent: Agent, project: &Path, file: &str) -> Source {
        let site = Site { path: vec![agent.key().to_owned()], project: Some(project.to_owned()) };
        Source { agent, file: project.join(file), sites: vec![site] }
    }

    fn user_file(&self, agent: Agent, file: PathBuf) -> Source {
        let mut sites = vec![Site { path: vec![agent.key().to_owned()], project: None }];
        if let (Agent::ClaudeCode, Some(project)) = (agent, self.project.to_str()) {
            let path = ["projects", project, agent.key()].map(str::to_owned).to_vec();
            sites.push(Site { path, project: Some(self.project.clone()) });
        }
        Source { agent, file, sites }
    }

    fn of_user(&self) -> Vec<Source> {
        let var = |name: &str| self.env.get(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let config = var("XDG_CONFIG_HOME").unwrap_or_else(|| self.home.join(".config"));
        let library = self.home.join("Library/Application Support");
        let claude = var("CLAUDE_CONFIG_DIR").unwrap_or_else(|| self.home.clone());
        let codex = var("CODEX_HOME").unwrap_or_else(|| self.home.join(".codex"));
        let mut files = vec![
            (Agent::ClaudeCode, claude.join(".claude.json")),
            (Agent::Cursor, self.home.join(".cursor/mcp.json")),
            (Agent::Codex, codex.join("config.toml")),
            (Agent::Gemini, self.home.join(".gemini/settings.json")),
        ];
        for base in [&config, &library] {
            files.push((Agent::ClaudeDesktop, base.join("Claude/claude_desktop_config.json")));
            for edition in ["Code", "Code - Insiders", "VSCodium"] {
                let user = base.join(edition).join("User");
                let profiles = user.join("profiles").read_dir().into_iter().flatten().flatten();
                let mut profiles: Vec<_> = profiles.map(|profile| profile.path().join("mcp.json")).collect();
                profiles.sort();
                files.extend(std::iter::once(user.join("mcp.json")).chain(profiles).map(|file| (Agent::VsCode, file)));
            }
        }
        files.into_iter().map(|(agent, file)| self.user_file(agent, file)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(home: &Path, project: &Path) -> Places {
        Places { home: home.to_owned(), env: BTreeMap::new(), project: project.to_owned() }
    }

    #[test]
    fn a_file_is_known_by_its_name_and_place() {
        let places = places(Path::new("/home/me"), Path::new("/p/shop"));
        for (file, agent, project) in [
            ("/q/.mcp.json", Agent::ClaudeCode, Some("/q")),
            ("/q/.vscode/mcp.json", Agent::VsCode, Some("/q")),
            ("/home/me/.codex/config.toml", Agent::Codex, None),
            ("/home/me/.config/Code/User/mcp.json", Agent::VsCode, None),
            ("/elsewhere/claude_desktop_config.json", Agent::ClaudeDesktop, None),
        ] {
            let source = places.one(Path::new(file)).unwrap();
            assert_eq!((source.agent, source.sites[0].project.as_deref()), (agent, project.map(Path::new)), "{file}");
        }
        assert!(places.one(Path::new("/q/package.json")).is_err());
        let claude = places.one(Path::new("/home/me/.claude.json")).unwrap();
        assert_eq!(claude.sites[1].path, ["projects", "/p/shop", "mcpServers"]);
    }

    #[test]
    fn a_project_is_the_nearest_directory_that_looks_like_one() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("home/shop/src/deep");
        std::fs::create_dir_all(&deep).unwrap();
        let home = dir.path().join("home");
        std::fs::write(home.join(".mcp.json"), "{}").unwrap();
        assert_eq!(Places::project_of(&deep, &home), deep, "the home is no project");
        std::fs::create_dir(home.join("shop/.git")).unwrap();
        assert_eq!(Places::project_of(&deep, &home), home.join("shop"));
        assert_eq!(Places::project_of(&home, &home), home);
        assert!(places(&home, &home).all().iter().all(|source| source.sites[0].project.is_none()));
    }
}
