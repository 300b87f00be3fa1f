//! What `linchpin run` was asked to do, and what follows from it before anything is done.
//!
//! Owns [`RunOptions`] and the [`Plan`] made of them. Whatever can be refused is refused here: a bad name or URL, a
//! command that does not exist, settings that cannot be read.
//! Invariant: making a plan starts nothing and writes nothing.
//! Never: looks at the registry.

use super::Handed;
use crate::conflict::Conflict;
use crate::mcp::proxy::Target;
use http::{HeaderName, HeaderValue};
use linchpin_shared::home::Home;
use linchpin_shared::name;
use linchpin_shared::problem::{Code, Problem};
use linchpin_shared::settings::Settings;
use rustix::fs::{Access, access};
use serde::{Deserialize, Serialize};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// What to run as an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunOptions {
    /// Its name; by default that of the project's directory.
    pub name: Option<String>,
    /// The directory of the project, in which the command runs. Absolute.
    pub project_dir: PathBuf,
    /// The command and its arguments. May be empty only for [`Kind::McpUrl`].
    pub command: Vec<OsString>,
    /// What the command is.
    pub kind: Kind,
    /// What to do when a live instance has the name already.
    pub conflict: Conflict,
    /// Which port it is given in `PORT`.
    pub port: Port,
    /// Whether the command's output is passed through to our own.
    pub pass_through: bool,
    /// What it is handed that must not stand in a command line.
    #[serde(default)]
    pub handed: Handed,
}

impl RunOptions {
    /// The next life is the same instance, whatever the first one's name cost.
    pub(crate) fn settle(&mut self, name: String) {
        (self.name, self.conflict) = (Some(name), Conflict::Fail);
    }
}

/// Which port a command is given in the variable `PORT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Port {
    /// A free one, if it is no MCP server, `PORT` is not set already and the settings do not forbid it.
    #[default]
    Default,
    /// A free one.
    Any,
    /// This one; when it is taken, nothing is started.
    Exactly(u16),
    /// None.
    Nothing,
}

/// What the command is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Any program.
    Plain,
    /// An MCP server on its standard input and output.
    McpStdio,
    /// An MCP server that listens at this URL.
    McpUrl(String),
}

/// What will be done.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) name: String,
    pub(super) project_dir: PathBuf,
    /// The executable that was found, if there is a command.
    pub(super) executable: Option<PathBuf>,
    pub(super) words: Vec<OsString>,
    pub(super) wiring: Wiring,
    pub(super) conflict: Conflict,
    pub(super) port: Port,
    pub(super) pass_through: bool,
    pub(super) handed: Handed,
    pub(super) settings: Settings,
}

/// How the command is wired.
#[derive(Debug)]
pub(super) enum Wiring {
    Plain,
    Stdio,
    Url(Target, Vec<(HeaderName, HeaderValue)>),
}

impl Plan {
    pub(super) fn new(home: &Home, options: RunOptions) -> Result<Self, Problem> {
        let RunOptions { name, project_dir, command, kind, conflict, port, pass_through, handed } = options;
        let name = name.unwrap_or_else(|| name::from_path(&project_dir));
        name::check(&name)?;
        if !(project_dir.is_absolute() && project_dir.is_dir()) {
            return Err(Problem::new(
                Code::BadRequest,
                "the project's directory is not an absolute path of a directory",
            )
            .seen("path", project_dir.display().to_string())
            .next("cd to the project first"));
        }
        let wiring = match kind {
            Kind::Plain => Wiring::Plain,
            Kind::McpStdio => Wiring::Stdio,
            Kind::McpUrl(url) => Wiring::Url(Target::parse(&url)?, handed.header_list()?),
        };
        let executable = match (command.first(), &wiring) {
            (Some(program), _) => {
                let path = handed.env.get("PATH").map(OsString::from).or_else(|| std::env::var_os("PATH"));
                Some(find(program, &project_dir, &path.unwrap_or_default())?)
            }
            (None, Wiring::Url(..)) => None,
            (None, Wiring::Plain | Wiring::Stdio) => {
                return Err(
                    Problem::new(Code::BadRequest, "there is no command to run").next("linchpin run -- COMMAND")
                );
            }
        };
        let settings = Settings::load(home)?;
        let words = command;
        Ok(Self { name, project_dir, executable, words, wiring, conflict, port, pass_through, handed, settings })
    }
}

/// Finds a program as a shell does: a word with a slash is a path, any other is looked for in `path`.
fn find(program: &OsStr, dir: &Path, path: &OsStr) -> Result<PathBuf, Problem> {
    let named = Path::new(program);
    let candidates: Vec<PathBuf> = if named.components().count() > 1 || program.is_empty() {
        vec![dir.join(named)]
    } else {
        std::env::split_paths(path).map(|part| dir.join(part).join(named)).collect()
    };
    if let Some(found) =
        candidates.iter().find(|path| path.is_file() && access(path.as_path(), Access::EXEC_OK).is_ok())
    {
        return Ok(found.clone());
    }
    let program = program.to_string_lossy();
    let there = candidates.iter().find(|path| path.exists());
    let problem = match there {
        Some(path) if path.is_dir() => Problem::new(Code::CommandNotFound, format!("{program:?} is a directory")),
        Some(path) => Problem::new(Code::CommandNotFound, format!("{program:?} may not be executed"))
            .next(format!("chmod +x {}", path.display())),
        None => Problem::new(Code::CommandNotFound, format!("there is no program {program:?}"))
            .next(format!("command -v {program}"))
            .next("check the spelling, or give the whole path"),
    };
    Err(problem.seen("directory", dir.display().to_string()).seen("PATH", path.to_string_lossy()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_plan_needs_a_real_directory() {
        for dir in ["relative", "/no/such/directory", "/proc/self/stat"] {
            let options = RunOptions {
                name: Some("shop".into()),
                project_dir: dir.into(),
                command: vec!["true".into()],
                kind: Kind::Plain,
                conflict: Conflict::Fail,
                port: Port::Default,
                pass_through: false,
                handed: Handed::default(),
            };
            let problem = Plan::new(&Home::at("/nowhere"), options).unwrap_err();
            assert!(problem.detail.contains("directory"), "{problem}");
        }
    }

    #[test]
    fn programs_are_found_as_a_shell_finds_them() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tool");
        std::fs::write(&file, "#!/bin/sh\n").unwrap();
        let here = |word: &str, path: &str| find(OsStr::new(word), dir.path(), OsStr::new(path));
        let message = |word| here(word, "/bin").unwrap_err().to_string();
        assert!(message("./tool").contains("chmod +x"), "{}", message("./tool"));
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(here("./tool", "/bin").unwrap(), dir.path().join("./tool"));
        assert_eq!(here("tool", &format!("/nowhere:{}", dir.path().display())).unwrap(), file);
        assert!(here("sh", "/bin").unwrap().is_absolute());
        assert!(message("tool").contains("there is no program"));
        assert!(message("./").contains("directory"));
        assert!(message("").contains("directory") || message("").contains("no program"));
    }
}
