//! The variables in agents' files.
//!
//! Owns [`Dialect`], how each agent writes them, and what they come to here. Invariant: a text is resolved whole or not at
//! all. A variable that is not set here may be set where the agent runs, so it is a reason to leave a server alone, and
//! never an empty text. Never: keeps or shows a value.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// How an agent writes variables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// Not at all.
    None,
    /// `${VAR}` and `${VAR:-default}`: Claude Code.
    Shell,
    /// The same, and `$VAR`: Gemini CLI.
    Dollar,
    /// `${env:VAR}`, `${workspaceFolder}`, `${userHome}`, `${input:x}`: VS Code and Cursor.
    Editor,
}

/// What variables come to.
#[derive(Debug, Clone)]
pub(super) struct Vars {
    /// The environment.
    pub(super) env: BTreeMap<String, String>,
    /// The user's home.
    pub(super) home: PathBuf,
}

impl Vars {
    /// The text with all variables resolved, for a server of this project.
    ///
    /// # Errors
    /// Which one cannot be resolved.
    pub(super) fn resolve(&self, text: &str, dialect: Dialect, project: Option<&Path>) -> Result<String, String> {
        let (mut out, mut rest) = (String::new(), text);
        if dialect == Dialect::None {
            return Ok(text.to_owned());
        }
        while let Some(at) = rest.find('$') {
            out.push_str(&rest[..at]);
            let after = &rest[at + 1..];
            let braced = after.strip_prefix('{').and_then(|inner| inner.split_once('}'));
            let bare = after.len() - after.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || c == '_').len();
            rest = match braced {
                Some((name, rest)) => {
                    out.push_str(&self.braced(name, dialect, project)?);
                    rest
                }
                None if dialect == Dialect::Dollar && bare > 0 => {
                    out.push_str(&self.variable(&after[..bare])?);
                    &after[bare..]
                }
                None => {
                    out.push('$');
                    after
                }
            };
        }
        out.push_str(rest);
        Ok(out)
    }

    fn braced(&self, name: &str, dialect: Dialect, project: Option<&Path>) -> Result<String, String> {
        match dialect {
            Dialect::Editor => self.of_editor(name, project),
            Dialect::None | Dialect::Shell | Dialect::Dollar => match name.split_once(":-") {
                // As in a shell, an empty variable is none where there is a default.
                Some((name, default)) => {
                    let set = self.variable(name).ok().filter(|value| !value.is_empty());
                    Ok(set.unwrap_or_else(|| default.to_owned()))
                }
                None if name == "CLAUDE_PROJECT_DIR" && project.is_some() => shown(project.unwrap_or(&self.home)),
                None => self.variable(name),
            },
        }
    }

    fn of_editor(&self, name: &str, project: Option<&Path>) -> Result<String, String> {
        let workspace = || project.ok_or_else(|| format!("${{{name}}} is another one in each workspace"));
        match name.split_once(':') {
            Some(("env", name)) => self.variable(name),
            Some(("input", name)) => Err(format!("${{input:{name}}} is asked for when the editor starts it")),
            Some((kind, _)) => Err(format!("${{{kind}:…}} is known to the editor only")),
            None => match name {
                "userHome" => shown(&self.home),
                "workspaceFolder" | "workspaceRoot" | "cwd" => shown(workspace()?),
                "workspaceFolderBasename" => shown(Path::new(workspace()?.file_name().unwrap_or_default())),
                "pathSeparator" | "/" => Ok(String::from("/")),
                _ => Err(format!("${{{name}}} is known to the editor only")),
            },
        }
    }

    fn variable(&self, name: &str) -> Result<String, String> {
        self.env.get(name).cloned().ok_or_else(|| format!("the variable {name} is not set here"))
    }
}

fn shown(path: &Path) -> Result<String, String> {
    path.to_str().map(str::to_owned).ok_or_else(|| format!("{} is not UTF-8", path.display()))
}

/// The variables of a file with lines `NAME=value`.
///
/// # Errors
/// Which line is none.
pub(super) fn env_file(text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut all = BTreeMap::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let pair = line.strip_prefix("export ").unwrap_or(line).split_once('=');
        let (name, value) = pair.ok_or_else(|| format!("line {} is not NAME=value", number + 1))?;
        let value = value.trim();
        let quoted = ['"', '\''].iter().find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote));
        let plain = || value.split(" #").next().unwrap_or_default().trim_end();
        all.insert(name.trim().to_owned(), quoted.unwrap_or_else(plain).to_owned());
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(text: &str, dialect: Dialect, project: Option<&str>) -> Result<String, String> {
        let env = [("A", "1"), ("EMPTY", "")].map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        Vars { env, home: PathBuf::from("/home/me") }.resolve(text, dialect, project.map(Path::new))
    }

    #[test]
    fn each_agent_has_its_own_forms() {
        for (text, dialect, wanted) in [
            ("${A} $A ${B:-x}${EMPTY:-y}", Dialect::Shell, "1 $A xy"),
            ("a${A}b$A!$ 5$", Dialect::Dollar, "a1b1!$ 5$"),
            ("${env:A}${userHome}${/}${workspaceFolderBasename}", Dialect::Editor, "1/home/me/shop"),
            ("${A} $A", Dialect::None, "${A} $A"),
            ("${workspaceFolder}/x $A ${", Dialect::Editor, "/p/shop/x $A ${"),
            ("${CLAUDE_PROJECT_DIR}", Dialect::Shell, "/p/shop"),
            ("${CLAUDE_PROJECT_DIR:-.}/x", Dialect::Shell, "./x"),
        ] {
            assert_eq!(resolve(text, dialect, Some("/p/shop")).as_deref(), Ok(wanted), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_resolved_is_named() {
        for (text, dialect, word) in [
            ("${B}", Dialect::Shell, "B"),
            ("$B", Dialect::Dollar, "B"),
            ("${input:key}", Dialect::Editor, "input:key"),
            ("${workspaceFolder}", Dialect::Editor, "workspaceFolder"),
            ("${config:x.y}", Dialect::Editor, "config"),
        ] {
            assert!(resolve(text, dialect, None).unwrap_err().contains(word), "{text}");
        }
    }

    #[test]
    fn files_of_variables() {
        let all = env_file("# a\nexport A='x y' \nB=1 # one\n\nC=\"#\"\n").unwrap();
        assert_eq!((all["A"].as_str(), all["B"].as_str(), all["C"].as_str()), ("x y", "1", "#"));
        assert!(env_file("A=1\nnonsense").unwrap_err().contains("line 2"));
    }
}
