//! The variables in the files of agents.
//!
//! [`VariableSyntax`] is how an agent writes variables. A string is resolved completely or not at all. A variable that
//! is not set here may be set where the agent runs, so it is a reason to leave a server alone, and it never becomes an
//! empty string. No value is utf8.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// How an agent writes variables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum VariableSyntax {
    /// It has no variables.
    None,
    /// `${VAR}` and `${VAR:-default}`, in the files of Claude Code.
    Shell,
    /// The same, and also `$VAR`, in the files of Gemini CLI.
    Dollar,
    /// `${env:VAR}`, `${workspaceFolder}`, `${userHome}` and `${input:x}`, in the files of VS Code and Cursor.
    Editor,
}

/// The values of variables.
#[derive(Debug, Clone)]
pub(super) struct Variables {
    /// The environment.
    pub(super) env: BTreeMap<String, String>,
    /// The user's home directory.
    pub(super) home: PathBuf,
}

impl Variables {
    /// Returns the string with all variables resolved, for a server of this project.
    ///
    /// # Errors
    /// Names the variable that cannot be resolved.
    pub(super) fn resolve(&self, text: &str, syntax: VariableSyntax, project: Option<&Path>) -> Result<String, String> {
        let (mut out, mut rest) = (String::new(), text);
        if syntax == VariableSyntax::None {
            return Ok(text.to_owned());
        }
        while let Some(at) = rest.find('$') {
            out.push_str(&rest[..at]);
            let after = &rest[at + 1..];
            let braced = after.strip_prefix('{').and_then(|inner| inner.split_once('}'));
            let bare = after.len() - after.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || c == '_').len();
            rest = match braced {
                Some((name, rest)) => {
                    out.push_str(&self.braced(name, syntax, project)?);
                    rest
                }
                None if syntax == VariableSyntax::Dollar && bare > 0 => {
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

    fn braced(&self, name: &str, syntax: VariableSyntax, project: Option<&Path>) -> Result<String, String> {
        match syntax {
            VariableSyntax::Editor => self.of_editor(name, project),
            VariableSyntax::None | VariableSyntax::Shell | VariableSyntax::Dollar => match name.split_once(":-") {
                // As in a shell, an empty variable counts as unset if there is a default.
                Some((name, default)) => {
                    let set = self.variable(name).ok().filter(|value| !value.is_empty());
                    Ok(set.unwrap_or_else(|| default.to_owned()))
                }
                None if name == "CLAUDE_PROJECT_DIR" && project.is_some() => utf8(project.unwrap_or(&self.home)),
                None => self.variable(name),
            },
        }
    }

    fn of_editor(&self, name: &str, project: Option<&Path>) -> Result<String, String> {
        let workspace = || project.ok_or_else(|| format!("${{{name}}} differs in each workspace"));
        match name.split_once(':') {
            Some(("env", name)) => self.variable(name),
            Some(("input", name)) => Err(format!("the editor asks for ${{input:{name}}} when it starts the server")),
            Some((kind, _)) => Err(format!("only the editor knows ${{{kind}:…}}")),
            None => match name {
                "userHome" => utf8(&self.home),
                "workspaceFolder" | "workspaceRoot" | "cwd" => utf8(workspace()?),
                "workspaceFolderBasename" => utf8(Path::new(workspace()?.file_name().unwrap_or_default())),
                "pathSeparator" | "/" => Ok(String::from("/")),
                _ => Err(format!("only the editor knows ${{{name}}}")),
            },
        }
    }

    fn variable(&self, name: &str) -> Result<String, String> {
        self.env.get(name).cloned().ok_or_else(|| format!("the variable {name} is not set here"))
    }
}

fn utf8(path: &Path) -> Result<String, String> {
    path.to_str().map(str::to_owned).ok_or_else(|| format!("{} is not UTF-8", path.display()))
}

/// Reads the variables of a file with lines `NAME=value`.
///
/// # Errors
/// Names the line that is not of this form.
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

    fn resolve(text: &str, syntax: VariableSyntax, project: Option<&str>) -> Result<String, String> {
        let env = [("A", "1"), ("EMPTY", "")].map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        Variables { env, home: PathBuf::from("/home/me") }.resolve(text, syntax, project.map(Path::new))
    }

    #[test]
    fn each_agent_has_its_own_syntax() {
        for (text, syntax, expected) in [
            ("${A} $A ${B:-x}${EMPTY:-y}", VariableSyntax::Shell, "1 $A xy"),
            ("a${A}b$A!$ 5$", VariableSyntax::Dollar, "a1b1!$ 5$"),
            ("${env:A}${userHome}${/}${workspaceFolderBasename}", VariableSyntax::Editor, "1/home/me/shop"),
            ("${A} $A", VariableSyntax::None, "${A} $A"),
            ("${workspaceFolder}/x $A ${", VariableSyntax::Editor, "/p/shop/x $A ${"),
            ("${CLAUDE_PROJECT_DIR}", VariableSyntax::Shell, "/p/shop"),
            ("${CLAUDE_PROJECT_DIR:-.}/x", VariableSyntax::Shell, "./x"),
        ] {
            assert_eq!(resolve(text, syntax, Some("/p/shop")).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn an_unresolved_variable_is_named() {
        for (text, syntax, word) in [
            ("${B}", VariableSyntax::Shell, "B"),
            ("$B", VariableSyntax::Dollar, "B"),
            ("${input:key}", VariableSyntax::Editor, "input:key"),
            ("${workspaceFolder}", VariableSyntax::Editor, "workspaceFolder"),
            ("${config:x.y}", VariableSyntax::Editor, "config"),
        ] {
            assert!(resolve(text, syntax, None).unwrap_err().contains(word), "{text}");
        }
    }

    #[test]
    fn env_files_are_read() {
        let all = env_file("# a\nexport A='x y' \nB=1 # one\n\nC=\"#\"\n").unwrap();
        assert_eq!((all["A"].as_str(), all["B"].as_str(), all["C"].as_str()), ("x y", "1", "#"));
        assert!(env_file("A=1\nnonsense").unwrap_err().contains("line 2"));
    }
}
