//! The options of `linchpin run`, and the [`Plan`] that follows from them.
//!
//! Whatever can be rejected early is rejected while the plan is made: a bad name or URL, a command that does not exist,
//! settings that cannot be read. That starts nothing, writes nothing and does not read the registry.

use super::launch_options::LaunchOptions;
use crate::conflict::Conflict;
#[cfg(feature = "mcp")]
use crate::mcp::proxy::ServerUrl;
#[cfg(feature = "mcp")]
use http::{HeaderName, HeaderValue};
use linchpin_shared::home::Home;
use linchpin_shared::name;
use linchpin_shared::problem::{Code, Problem};
use linchpin_shared::settings::Settings;
use rustix::fs::{Access, access};
use serde::{Deserialize, Serialize};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// The name of the one process and the one MCP server of `linchpin run`.
pub const MAIN: &str = "main";

/// What to run as an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunOptions {
    /// The name of the instance; by default that of the project's directory.
    pub name: Option<String>,
    /// The absolute path of the project's directory, in which the command runs.
    pub project_dir: PathBuf,
    /// The command and its arguments. It may be empty only for [`Kind::McpUrl`].
    pub command: Vec<OsString>,
    /// What the command is.
    pub kind: Kind,
    /// What to do when a live instance has the name already.
    pub conflict: Conflict,
    /// Which port the command is assigned in `PORT`.
    pub port: PortChoice,
    /// Whether the command's output is passed through to our own.
    pub pass_through: bool,
    /// Options that must not appear in a command line.
    #[serde(default, rename = "handed")]
    pub launch: LaunchOptions,
}

impl RunOptions {
    /// Keeps the name under which the first run was registered: later runs are the same instance, and never take over
    /// another one's name.
    pub(crate) fn keep_name(&mut self, name: String) {
        (self.name, self.conflict) = (Some(name), Conflict::Fail);
    }
}

/// Which port a command is assigned in the variable `PORT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PortChoice {
    /// A free port, unless it is an MCP server, `PORT` is set already or the settings forbid it.
    #[default]
    Default,
    /// A free port.
    Any,
    /// This port; when it is taken, nothing is started.
    Exactly(u16),
    /// No port.
    Nothing,
}

/// The kind of program that the command runs.
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

/// What the agent will do.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) name: String,
    pub(super) project_dir: PathBuf,
    /// The executable that was found, if there is a command.
    pub(super) executable: Option<PathBuf>,
    pub(super) command: Vec<OsString>,
    pub(super) offer: Offer,
    pub(super) conflict: Conflict,
    pub(super) port: PortChoice,
    pub(super) pass_through: bool,
    pub(super) launch: LaunchOptions,
    pub(super) settings: Settings,
}

/// What the instance offers besides the command itself.
#[derive(Debug)]
pub(super) enum Offer {
    Nothing,
    #[cfg(feature = "mcp")]
    McpStdio,
    #[cfg(feature = "mcp")]
    McpUrl(ServerUrl, Vec<(HeaderName, HeaderValue)>),
}

impl Offer {
    #[cfg(feature = "mcp")]
    fn new(kind: &Kind, launch: &LaunchOptions) -> Result<Self, Problem> {
        Ok(match kind {
            Kind::Plain => Self::Nothing,
            Kind::McpStdio => Self::McpStdio,
            Kind::McpUrl(url) => Self::McpUrl(ServerUrl::parse(url)?, launch.header_list()?),
        })
    }

    #[cfg(not(feature = "mcp"))]
    fn new(kind: &Kind, _: &LaunchOptions) -> Result<Self, Problem> {
        match kind {
            Kind::Plain => Ok(Self::Nothing),
            Kind::McpStdio | Kind::McpUrl(_) => {
                Err(Problem::new(Code::BadRequest, "this program was built without support for MCP servers")
                    .next("build it with the feature \"mcp\" of linchpin-instance"))
            }
        }
    }
}

impl Plan {
    pub(super) fn new(home: &Home, options: RunOptions) -> Result<Self, Problem> {
        let RunOptions { name, project_dir, command, kind, conflict, port, pass_through, launch } = options;
        let name = name.unwrap_or_else(|| name::from_path(&project_dir));
        name::check(&name)?;
        if !(project_dir.is_absolute() && project_dir.is_dir()) {
            return Err(Problem::new(
                Code::BadRequest,
                "the project's directory is not the absolute path of a directory",
            )
            .seen("path", project_dir.display().to_string())
            .next("cd to the project first"));
        }
        let offer = Offer::new(&kind, &launch)?;
        let executable = match command.first() {
            Some(program) => {
                let path = launch.env.get("PATH").map(OsString::from).or_else(|| std::env::var_os("PATH"));
                Some(find(program, &project_dir, &path.unwrap_or_default())?)
            }
            None if matches!(kind, Kind::McpUrl(_)) => None,
            None => {
                return Err(
                    Problem::new(Code::BadRequest, "there is no command to run").next("linchpin run -- COMMAND")
                );
            }
        };
        let settings = Settings::load(home)?;
        Ok(Self { name, project_dir, executable, command, offer, conflict, port, pass_through, launch, settings })
    }
}

/// Finds a program as a shell does: a name with a slash is a path, any other is searched for in `path`.
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
    let existing = candidates.iter().find(|path| path.exists());
    let problem = match existing {
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
                port: PortChoice::Default,
                pass_through: false,
                launch: LaunchOptions::default(),
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
