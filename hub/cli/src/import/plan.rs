//! What an import will do, before anything is done.
//!
//! [`ImportPlan`] says for each file what happens to each entry and how the file will look, and which servers will be
//! declared. Planning only reads files. If one server occurs in several files, it is declared once; different servers
//! get different names, which also differ from the names that are declared or running already.

use super::agents::{Agent, AgentFile, FileLocator, ServerTable};
use super::edit::ObjectEdit;
use super::entry::{self, EntryContext, EntryKind};
use super::file::{self, FileContent};
use super::vars::Variables;
use linchpin_hub::declared::{ServerEndpoint, ServerSpec};
use linchpin_shared::name;
use linchpin_shared::problem::Problem;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The name of the one entry for Linchpin. No server gets it.
const OWN: &str = "linchpin";

/// What an import will do.
#[derive(Debug)]
pub(super) struct ImportPlan {
    pub(super) files: Vec<FilePlan>,
    /// All servers that the files have, by their names; also those that are declared already.
    pub(super) servers: BTreeMap<String, ServerSpec>,
}

/// What will happen to one file.
#[derive(Debug)]
pub(super) struct FilePlan {
    pub(super) agent: Agent,
    pub(super) content: FileContent,
    pub(super) entries: Vec<PlannedEntry>,
    pub(super) changes: Vec<ObjectEdit>,
    /// The new content; or why the file cannot be changed.
    pub(super) after: Result<String, Problem>,
}

impl FilePlan {
    /// Returns the names of the servers that its entries become.
    pub(super) fn servers(&self) -> Vec<String> {
        let name = |entry: &PlannedEntry| match &entry.action {
            EntryAction::Declare(name, _) => Some(name.clone()),
            EntryAction::Linchpin | EntryAction::LeaveAlone(_) => None,
        };
        self.entries.iter().filter_map(name).collect()
    }
}

/// What will happen to one entry.
#[derive(Debug)]
pub(super) struct PlannedEntry {
    pub(super) name: String,
    pub(super) project: Option<PathBuf>,
    pub(super) action: EntryAction,
}

/// What will happen to an entry.
#[derive(Debug)]
pub(super) enum EntryAction {
    /// It is declared under this name, without these fields.
    Declare(String, Vec<String>),
    /// It is Linchpin itself.
    Linchpin,
    /// It is left alone, for this reason.
    LeaveAlone(String),
}

/// ServerEndpoint an agent will start this program.
#[derive(Debug, Clone)]
pub(super) struct LinchpinProgram {
    /// Its path.
    pub(super) path: String,
    /// Whether its bare name is found in PATH.
    pub(super) is_found: bool,
    /// The variables that lead it to this home.
    pub(super) env: BTreeMap<String, String>,
}

/// Makes plans.
pub(super) struct ImportPlanner<'a> {
    pub(super) locator: &'a FileLocator,
    pub(super) program: LinchpinProgram,
    /// The servers that are declared already.
    pub(super) declared: BTreeMap<String, ServerSpec>,
    /// The names and project directories of the running instances.
    pub(super) running: Vec<(String, PathBuf)>,
    servers: BTreeMap<String, ServerSpec>,
}

impl<'a> ImportPlanner<'a> {
    pub(super) fn new(
        locator: &'a FileLocator,
        program: LinchpinProgram,
        declared: BTreeMap<String, ServerSpec>,
        running: Vec<(String, PathBuf)>,
    ) -> Self {
        Self { locator, program, declared, running, servers: BTreeMap::new() }
    }

    /// Plans what to do with these files. Files that do not exist are omitted.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub(super) fn plan(mut self, sources: &[AgentFile]) -> Result<ImportPlan, Problem> {
        let mut files: Vec<FilePlan> = Vec::new();
        for source in sources {
            let Some(content) = FileContent::read(&source.file)? else { continue };
            if !files.iter().any(|known| known.content.real == content.real) {
                files.push(self.file(source, content));
            }
        }
        Ok(ImportPlan { files, servers: self.servers })
    }

    fn file(&mut self, source: &AgentFile, content: FileContent) -> FilePlan {
        let (mut entries, mut changes) = (Vec::new(), Vec::new());
        let after = content.value().and_then(|root| {
            for table in &source.tables {
                self.table(source, table, &root, &mut entries, &mut changes);
            }
            file::changed(&content.text, &content.real, &changes)
        });
        FilePlan { agent: source.agent, content, entries, changes, after }
    }

    fn table(
        &mut self,
        source: &AgentFile,
        table: &ServerTable,
        root: &Value,
        out: &mut Vec<PlannedEntry>,
        changes: &mut Vec<ObjectEdit>,
    ) {
        let found = table.path.iter().try_fold(root, |value, key| value.get(key)).and_then(Value::as_object);
        let Some(servers) = found else { return };
        let disabled = self.disabled(source.agent, table, root);
        let vars = Variables { env: self.locator.env.clone(), home: self.locator.home.clone() };
        let context = EntryContext { agent: source.agent, table, vars: &vars, disabled: &disabled };
        let (mut remove, mut is_there) = (Vec::new(), false);
        for (name, entry) in servers {
            let action = match entry::read(name, entry, &context) {
                EntryKind::Linchpin => {
                    is_there = true;
                    EntryAction::Linchpin
                }
                EntryKind::LeaveAlone(why) => EntryAction::LeaveAlone(why),
                EntryKind::Server { how, dir, not_carried_over } => {
                    remove.push(name.clone());
                    let from = vec![source.file.display().to_string()];
                    EntryAction::Declare(
                        self.name(name, ServerSpec { project_dir: dir, endpoint: how, from, other: Map::new() }),
                        not_carried_over,
                    )
                }
            };
            out.push(PlannedEntry { name: name.clone(), project: table.project.clone(), action });
        }
        if remove.is_empty() {
            return;
        }
        let free = |name: &String| !servers.contains_key(name) || remove.contains(name);
        let own = [OWN.to_owned()].into_iter().chain((2..).map(|n| format!("{OWN}-{n}"))).find(free);
        let insert = own.filter(|_| !is_there).map(|own| (own, self.own(source.agent, table)));
        changes.push(ObjectEdit { path: table.path.clone(), remove, insert: insert.into_iter().collect() });
    }

    /// Returns the one entry for Linchpin.
    fn own(&self, agent: Agent, table: &ServerTable) -> Value {
        let LinchpinProgram { path, is_found, env } = &self.program;
        // A file of a project is often shared with other people, whose linchpin has another path.
        let is_shared = table.project.is_some() && table.path.len() == 1;
        let mut args = vec![json!("mcp")];
        if let Some(project) = &table.project {
            args.push(json!("--project"));
            match agent {
                Agent::Cursor | Agent::VsCode => args.push(json!("${workspaceFolder}")),
                Agent::ClaudeCode if !is_shared => args.push(json!(project.display().to_string())),
                Agent::ClaudeCode | Agent::ClaudeDesktop | Agent::Codex | Agent::Gemini => {}
            }
        }
        let command = if is_shared && *is_found { OWN } else { path };
        let mut entry = match agent {
            Agent::VsCode => json!({"type": "stdio", "command": command, "args": args}),
            // The first start of a server may download it, but Codex waits only ten seconds by default.
            Agent::Codex => json!({"command": command, "args": args, "startup_timeout_sec": 60}),
            Agent::ClaudeCode | Agent::ClaudeDesktop | Agent::Cursor | Agent::Gemini => {
                json!({"command": command, "args": args})
            }
        };
        if !env.is_empty() {
            entry["env"] = json!(env);
        }
        entry
    }

    /// Returns the names of the servers that the agent does not use.
    fn disabled(&self, agent: Agent, table: &ServerTable, root: &Value) -> Vec<String> {
        let names = |value: &Value| -> Vec<String> {
            value.as_array().into_iter().flatten().filter_map(|name| name.as_str().map(str::to_owned)).collect()
        };
        match agent {
            Agent::Gemini => {
                let mut disabled = names(&root["mcp"]["excluded"]);
                let allowed = names(&root["mcp"]["allowed"]);
                let all = root["mcpServers"].as_object().into_iter().flat_map(|servers| servers.keys().cloned());
                disabled.extend(all.filter(|name| !allowed.is_empty() && !allowed.contains(name)));
                disabled
            }
            Agent::ClaudeCode => {
                let Some(project) = table.project.as_deref().and_then(Path::to_str) else { return Vec::new() };
                let of = |root: &Value| -> Vec<String> {
                    let project = &root["projects"][project];
                    let lists = ["disabledMcpServers", "disabledMcpjsonServers"];
                    lists.iter().flat_map(|list| names(&project[*list])).collect()
                };
                if table.path.len() > 1 {
                    return of(root);
                }
                let users = self.locator.all().into_iter().filter(|source| source.file.ends_with(".claude.json"));
                let root = users.filter_map(|source| FileContent::read(&source.file).ok()??.value().ok()).next();
                root.map(|root| of(&root)).unwrap_or_default()
            }
            Agent::ClaudeDesktop | Agent::Cursor | Agent::VsCode | Agent::Codex => Vec::new(),
        }
    }

    /// Returns the name under which this server is declared, which is its old one if it has one.
    fn name(&mut self, wanted: &str, server: ServerSpec) -> String {
        let known = self.servers.iter_mut().find(|(_, known)| is_same(known, &server));
        if let Some((name, known)) = known {
            let new = server.from.into_iter().filter(|from| !known.from.contains(from)).collect::<Vec<_>>();
            known.from.extend(new);
            return name.clone();
        }
        if let Some((name, known)) = self.declared.iter().find(|(_, known)| is_same(known, &server)) {
            self.servers.insert(name.clone(), known.clone());
            return name.clone();
        }
        let mut taken: BTreeSet<&str> = self.servers.keys().chain(self.declared.keys()).map(String::as_str).collect();
        taken.insert(OWN);
        let others = self.running.iter().filter(|(_, dir)| *dir != server.project_dir);
        taken.extend(others.map(|(name, _)| name.as_str()));
        let base = name::slug(wanted);
        let numbered = (2..).map(|n| {
            let tail = format!("-{n}");
            let head: String = base.chars().take(name::MAX_LEN - tail.len()).collect();
            format!("{}{tail}", head.trim_end_matches('-'))
        });
        let free = std::iter::once(base.clone()).chain(numbered).find(|name| !taken.contains(name.as_str()));
        let name = free.unwrap_or(base);
        self.servers.insert(name.clone(), server);
        name
    }
}

/// Whether both are the same server. PATH does not count, because it comes from the import and not from the entry.
fn is_same(one: &ServerSpec, other: &ServerSpec) -> bool {
    let bare = |how: &ServerEndpoint| {
        let mut how = how.clone();
        if let ServerEndpoint::Stdio { env, .. } = &mut how {
            env.remove("PATH");
        }
        how
    };
    one.project_dir == other.project_dir && bare(&one.endpoint) == bare(&other.endpoint)
}
