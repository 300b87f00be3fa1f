//! Where everything of one user is.
//!
//! Owns the layout of the home (see "Registry" in ARCHITECTURE.md): one fixed place per user, moved as a whole by `LINCHPIN_HOME`.
//! Invariant: directories are 0700 and belong to us; a place that is not ours is refused, never repaired silently.
//! Never: falls back to a temporary directory. A second state directory would be a second, invisible hub.

use crate::problem::{Code, Problem};
use crate::space::cannot_write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// The environment variable that moves everything.
pub const HOME_VAR: &str = "LINCHPIN_HOME";

/// The paths of one user's Linchpin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    root: PathBuf,
    settings: PathBuf,
}

impl Home {
    /// Everything below one directory, settings included.
    #[must_use]
    pub fn at(root: impl Into<PathBuf>) -> Self {
        let root = root.into();
        Self { settings: root.join("config.toml"), root }
    }

    /// The home that this process's environment names: `LINCHPIN_HOME`, else the XDG directories.
    ///
    /// # Errors
    /// [`Code::HomeUnusable`] when neither `LINCHPIN_HOME` nor `HOME` is an absolute path.
    pub fn from_env() -> Result<Self, Problem> {
        Self::from_vars(|name| std::env::var_os(name).map(PathBuf::from))
    }

    /// As [`Home::from_env`], from any set of variables.
    ///
    /// # Errors
    /// As [`Home::from_env`].
    pub fn from_vars(var: impl Fn(&str) -> Option<PathBuf>) -> Result<Self, Problem> {
        let absolute = |name: &str| var(name).filter(|path| path.is_absolute());
        if let Some(path) = var(HOME_VAR).filter(|path| !path.as_os_str().is_empty()) {
            if path.is_absolute() {
                return Ok(Self::at(path));
            }
            return Err(Problem::new(Code::HomeUnusable, format!("{HOME_VAR} is not an absolute path"))
                .seen("path", path.display().to_string())
                .next(format!("set {HOME_VAR} to an absolute path, or unset it")));
        }
        let below_home = |tail: &str| absolute("HOME").map(|home| home.join(tail));
        let state = absolute("XDG_STATE_HOME").or_else(|| below_home(".local/state"));
        let config = absolute("XDG_CONFIG_HOME").or_else(|| below_home(".config"));
        match (state, config) {
            (Some(state), Some(config)) => {
                Ok(Self { root: state.join("linchpin"), settings: config.join("linchpin/config.toml") })
            }
            _ => Err(Problem::new(Code::HomeUnusable, "neither LINCHPIN_HOME nor HOME names a directory")
                .next("export LINCHPIN_HOME=/some/private/directory")),
        }
    }

    /// The directory that holds everything.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The settings file.
    #[must_use]
    pub fn settings_file(&self) -> &Path {
        &self.settings
    }

    /// The list of declared servers, beside the settings file.
    #[must_use]
    pub fn declared_file(&self) -> PathBuf {
        self.settings.with_file_name("servers.json")
    }

    /// The registry directory.
    #[must_use]
    pub fn instances(&self) -> PathBuf {
        self.root.join("instances")
    }

    /// The file whose lock makes a process the hub.
    #[must_use]
    pub fn hub_lease(&self) -> PathBuf {
        self.root.join("hub.lease")
    }

    /// The hub's address, pid, version and token. It outlives the hub; the lease tells whether it is current.
    #[must_use]
    pub fn hub_file(&self) -> PathBuf {
        self.root.join("hub.json")
    }

    /// The directory of all logs.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// The log file of one process of one instance.
    #[must_use]
    pub fn process_log(&self, instance: &str, process: &str) -> PathBuf {
        self.logs().join(instance).join(format!("{process}.log"))
    }

    /// Makes the directories, private to this user.
    ///
    /// # Errors
    /// [`Code::HomeUnusable`] or [`Code::PermissionDenied`] when a directory cannot be made, belongs to another user,
    /// or can be entered by others.
    pub fn prepare(&self) -> Result<(), Problem> {
        for dir in [self.root.clone(), self.instances(), self.instances().join("quarantine"), self.logs()] {
            private_dir(&dir)?;
        }
        Ok(())
    }
}

/// Makes a directory of mode 0700 and checks that it is ours.
///
/// # Errors
/// As [`Home::prepare`].
pub fn private_dir(dir: &Path) -> Result<(), Problem> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    // What is there and no directory is told better by the check.
    if let Err(error) = &made
        && dir.symlink_metadata().is_err()
    {
        return Err(cannot_write(error, format!("cannot make {}", dir.display()), dir));
    }
    check_private_dir(dir)
}

/// Checks that a directory is one, itself and no link to one, is ours, and is closed to others.
///
/// # Errors
/// [`Code::HomeUnusable`] with what it is instead, or what keeps it from being looked at.
pub fn check_private_dir(dir: &Path) -> Result<(), Problem> {
    let shown = dir.display();
    let facts =
        std::fs::symlink_metadata(dir).map_err(|error| cannot_write(&error, format!("cannot use {shown}"), dir))?;
    let ours = rustix::process::geteuid().as_raw();
    let problem = |what: &str| {
        Problem::new(Code::HomeUnusable, format!("{shown} {what}, and has to be a private directory of ours"))
            .seen("path", shown.to_string())
            .seen("owner", facts.uid())
            .seen("we are", ours)
            .seen("mode", format!("{:04o}", facts.mode() & 0o7777))
            .next(format!("ls -ld {shown}"))
    };
    let elsewhere = format!("or set {HOME_VAR} to another directory");
    if facts.is_symlink() {
        let target = std::fs::read_link(dir).map_or_else(|_| String::from("?"), |target| target.display().to_string());
        return Err(problem("is a symbolic link").seen("link to", target).next(format!(
            "move the link away if you did not make it; if you did, name the directory itself in {HOME_VAR}"
        )));
    }
    if !facts.is_dir() {
        return Err(problem("is not a directory").next(format!("mv {shown} {shown}.aside")).next(elsewhere));
    }
    if facts.uid() != ours {
        return Err(problem(&format!("belongs to user {}", facts.uid()))
            .next("if this is a verb under sudo, run it without")
            .next(format!("if it is yours: sudo chown -R {ours} {shown}"))
            .next(elsewhere));
    }
    if facts.mode() & 0o077 != 0 {
        return Err(problem("is open to other users").next(format!("chmod 700 {shown}")).next(elsewhere));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn vars<'a>(list: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<PathBuf> + 'a {
        |name| list.iter().find(|(key, _)| *key == name).map(|(_, value)| PathBuf::from(value))
    }

    #[test]
    fn one_variable_moves_everything() {
        let home = Home::from_vars(vars(&[("LINCHPIN_HOME", "/x"), ("HOME", "/home/me")])).unwrap();
        assert_eq!(home.root(), Path::new("/x"));
        assert_eq!(home.settings_file(), Path::new("/x/config.toml"));
    }

    #[test]
    fn the_default_is_a_fixed_place() {
        let home = Home::from_vars(vars(&[("HOME", "/home/me"), ("XDG_STATE_HOME", "relative")])).unwrap();
        assert_eq!(home.root(), Path::new("/home/me/.local/state/linchpin"));
        assert_eq!(home.settings_file(), Path::new("/home/me/.config/linchpin/config.toml"));
    }

    #[test]
    fn no_home_is_a_problem_with_a_step() {
        let problem = Home::from_vars(vars(&[])).unwrap_err();
        assert_eq!(problem.code, Code::HomeUnusable);
        assert!(!problem.next_steps.is_empty());
    }

    #[test]
    fn an_open_directory_is_refused_and_not_changed() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path().join("state"));
        home.prepare().unwrap();
        std::fs::set_permissions(home.root(), std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(home.prepare().unwrap_err().code, Code::HomeUnusable);
        assert_eq!(std::fs::metadata(home.root()).unwrap().mode() & 0o777, 0o755);
    }
}
