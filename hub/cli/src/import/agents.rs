//! The coding agents whose files are read: where each agent has its files, and where the servers are in them.
//!
//! [`AgentFile`] is one file and [`ServerTable`] is one object of servers in it. A file occurs once, however it is
//! found. A table belongs to one project or to the user. No file is opened here.

use super::vars::VariableSyntax;
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
    /// The name that people know.
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
    pub(super) const fn variable_syntax(self) -> VariableSyntax {
        match self {
            Self::ClaudeCode => VariableSyntax::Shell,
            Self::ClaudeDesktop | Self::Codex => VariableSyntax::None,
            Self::Cursor | Self::VsCode => VariableSyntax::Editor,
            Self::Gemini => VariableSyntax::Dollar,
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

/// One object of servers in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServerTable {
    /// The keys that lead to it.
    pub(super) path: Vec<String>,
    /// The project that it belongs to; `None` if it belongs to the user.
    pub(super) project: Option<PathBuf>,
}

/// One file of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AgentFile {
    pub(super) agent: Agent,
    pub(super) file: PathBuf,
    /// Where servers can be in it.
    pub(super) tables: Vec<ServerTable>,
}

/// Finds the files of agents.
#[derive(Debug, Clone)]
pub(super) struct FileLocator {
    pub(super) home: PathBuf,
    pub(super) env: BTreeMap<String, String>,
    /// The current project.
    pub(super) project: PathBuf,
}

/// The files that a project can have, and the agent of each.
const OF_PROJECT: [(&str, Agent); 5] = [
    (".mcp.json", Agent::ClaudeCode),
    (".cursor/mcp.json", Agent::Cursor),
    (".vscode/mcp.json", Agent::VsCode),
    (".codex/config.toml", Agent::Codex),
    (".gemini/settings.json", Agent::Gemini),
];

impl FileLocator {
    /// Returns the project of a directory: the nearest directory above it that has a file of an agent or a repository.
    /// The home is never a project, since its files belong to the user.
    pub(super) fn project_of(dir: &Path, home: &Path) -> PathBuf {
        let is_one = |dir: &&Path| {
            *dir != home && (OF_PROJECT.iter().any(|(file, _)| dir.join(file).is_file()) || dir.join(".git").exists())
        };
        let below = dir.ancestors().take_while(|above| *above != home);
        below.into_iter().find(is_one).unwrap_or(dir).to_owned()
    }

    /// Returns all files, those of the project first, whether they exist or not.
    pub(super) fn all(&self) -> Vec<AgentFile> {
        let of_project = OF_PROJECT.iter().filter(|_| self.project != self.home);
        let mut all: Vec<AgentFile> =
            of_project.map(|(file, agent)| self.project_file(*agent, &self.project, file)).collect();
        all.extend(self.of_user());
        all
    }

    /// Returns the file of an agent that this path names.
    ///
    /// # Errors
    /// [`Code::BadRequest`] if it is not a file of any known agent.
    pub(super) fn one(&self, file: &Path) -> Result<AgentFile, Problem> {
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
            Problem::new(Code::BadRequest, format!("{} is not a file of a known agent", file.display()))
                .seen("known", "Claude Code, Claude Desktop, Cursor, VS Code, Codex, Gemini CLI")
                .next("linchpin import    (without a file, it reads all files that it finds)")
        })
    }

    fn project_file(&self, agent: Agent, project: &Path, file: &str) -> AgentFile {
        let table = ServerTable { path: vec![agent.key().to_owned()], project: Some(project.to_owned()) };
        AgentFile { agent, file: project.join(file), tables: vec![table] }
    }

    fn user_file(&self, agent: Agent, file: PathBuf) -> AgentFile {
        let mut tables = vec![ServerTable { path: vec![agent.key().to_owned()], project: None }];
        if let (Agent::ClaudeCode, Some(project)) = (agent, self.project.to_str()) {
            let path = ["projects", project, agent.key()].map(str::to_owned).to_vec();
            tables.push(ServerTable { path, project: Some(self.project.clone()) });
        }
        AgentFile { agent, file, tables }
    }

    fn of_user(&self) -> Vec<AgentFile> {
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

    fn places(home: &Path, project: &Path) -> FileLocator {
        FileLocator { home: home.to_owned(), env: BTreeMap::new(), project: project.to_owned() }
    }

    #[test]
    fn a_file_is_recognised_by_its_name_and_directory() {
        let places = places(Path::new("/home/me"), Path::new("/p/shop"));
        for (file, agent, project) in [
            ("/q/.mcp.json", Agent::ClaudeCode, Some("/q")),
            ("/q/.vscode/mcp.json", Agent::VsCode, Some("/q")),
            ("/home/me/.codex/config.toml", Agent::Codex, None),
            ("/home/me/.config/Code/User/mcp.json", Agent::VsCode, None),
            ("/elsewhere/claude_desktop_config.json", Agent::ClaudeDesktop, None),
        ] {
            let source = places.one(Path::new(file)).unwrap();
            assert_eq!((source.agent, source.tables[0].project.as_deref()), (agent, project.map(Path::new)), "{file}");
        }
        assert!(places.one(Path::new("/q/package.json")).is_err());
        let claude = places.one(Path::new("/home/me/.claude.json")).unwrap();
        assert_eq!(claude.tables[1].path, ["projects", "/p/shop", "mcpServers"]);
    }

    #[test]
    fn a_project_is_the_nearest_directory_with_a_marker() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("home/shop/src/deep");
        std::fs::create_dir_all(&deep).unwrap();
        let home = dir.path().join("home");
        std::fs::write(home.join(".mcp.json"), "{}").unwrap();
        assert_eq!(FileLocator::project_of(&deep, &home), deep, "the home is not a project");
        std::fs::create_dir(home.join("shop/.git")).unwrap();
        assert_eq!(FileLocator::project_of(&deep, &home), home.join("shop"));
        assert_eq!(FileLocator::project_of(&home, &home), home);
        assert!(places(&home, &home).all().iter().all(|source| source.tables[0].project.is_none()));
    }
}
