//! What an import will do, before anything is done.
//!
//! Owns [`Plan`]: for each file what each entry becomes, and the file as it will be; and the servers that are declared.
//! Invariant: pure but for reading the files. The same server, whatever files it stands in, is one; different servers have
//! different names, also from what is declared or runs already. Never: shows a value of an environment or a header.

use super::agents::{Agent, Places, Site, Source};
use super::edit::Change;
use super::entry::{self, Around, Meaning};
use super::file::{self, Content};
use super::vars::Vars;
use linchpin_shared::declared::{How, Server};
use linchpin_shared::name;
use linchpin_shared::problem::Problem;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The name of the one entry, and that of no server.
const OWN: &str = "linchpin";

/// What an import will do.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) files: Vec<FilePlan>,
    /// All servers that files lead to, by their names; those declared already too.
    pub(super) servers: BTreeMap<String, Server>,
}

/// What becomes of one file.
#[derive(Debug)]
pub(super) struct FilePlan {
    pub(super) agent: Agent,
    pub(super) content: Content,
    pub(super) entries: Vec<Entry>,
    pub(super) changes: Vec<Change>,
    /// What it will be; or why it cannot be changed.
    pub(super) after: Result<String, Problem>,
}

impl FilePlan {
    /// The names of the servers that its entries become.
    pub(super) fn servers(&self) -> Vec<String> {
        let name = |entry: &Entry| match &entry.fate {
            Fate::Becomes(name, _) => Some(name.clone()),
            Fate::Linchpin | Fate::Left(_) => None,
        };
        self.entries.iter().filter_map(name).collect()
    }
}

/// What becomes of one entry.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) project: Option<PathBuf>,
    pub(super) fate: Fate,
}

/// What becomes of an entry.
#[derive(Debug)]
pub(super) enum Fate {
    /// It is declared under this name; of what the agent does with it, this is lost.
    Becomes(String, Vec<String>),
    /// It is Linchpin itself.
    Linchpin,
    /// It is left alone.
    Left(String),
}

/// How an agent is to start this program.
#[derive(Debug, Clone)]
pub(super) struct Program {
    /// Its place.
    pub(super) path: String,
    /// Whether its bare name finds it.
    pub(super) is_found: bool,
    /// The variables that lead it to this home.
    pub(super) env: BTreeMap<String, String>,
}

/// Makes plans.
pub(super) struct Planner<'a> {
    pub(super) places: &'a Places,
    pub(super) program: Program,
    /// What is declared already.
    pub(super) declared: BTreeMap<String, Server>,
    /// Names of instances that run, and where.
    pub(super) running: Vec<(String, PathBuf)>,
    servers: BTreeMap<String, Server>,
}

impl<'a> Planner<'a> {
    pub(super) fn new(
        places: &'a Places,
        program: Program,
        declared: BTreeMap<String, Server>,
        running: Vec<(String, PathBuf)>,
    ) -> Self {
        Self { places, program, declared, running, servers: BTreeMap::new() }
    }

    /// What is to be done with these files. Those that do not exist are left out.
    ///
    /// # Errors
    /// What keeps a file from being read.
    pub(super) fn plan(mut self, sources: &[Source]) -> Result<Plan, Problem> {
        let mut files: Vec<FilePlan> = Vec::new();
        for source in sources {
            let Some(content) = Content::read(&source.file)? else { continue };
            if !files.iter().any(|known| known.content.real == content.real) {
                files.push(self.file(source, content));
            }
        }
        Ok(Plan { files, servers: self.servers })
    }

    fn file(&mut self, source: &Source, content: Content) -> FilePlan {
        let (mut entries, mut changes) = (Vec::new(), Vec::new());
        let after = content.value().and_then(|root| {
            for site in &source.sites {
                self.site(source, site, &root, &mut entries, &mut changes);
            }
            file::changed(&content.text, &content.real, &changes)
        });
        FilePlan { agent: source.agent, content, entries, changes, after }
    }

    fn site(&mut self, source: &Source, site: &Site, root: &Value, out: &mut Vec<Entry>, changes: &mut Vec<Change>) {
        let found = site.path.iter().try_fold(root, |value, key| value.get(key)).and_then(Value::as_object);
        let Some(servers) = found else { return };
        let disabled = self.disabled(source.agent, site, root);
        let vars = Vars { env: self.places.env.clone(), home: self.places.home.clone() };
        let around = Around { agent: source.agent, site, vars: &vars, disabled: &disabled };
        let (mut remove, mut is_there) = (Vec::new(), false);
        for (name, entry) in servers {
            let fate = match entry::read(name, entry, &around) {
                Meaning::Linchpin => {
                    is_there = true;
                    Fate::Linchpin
                }
                Meaning::Left(why) => Fate::Left(why),
                Meaning::Server { how, dir, lost } => {
                    remove.push(name.clone());
                    let from = vec![source.file.display().to_string()];
                    Fate::Becomes(self.name(name, Server { project_dir: dir, how, from, other: Map::new() }), lost)
                }
            };
            out.push(Entry { name: name.clone(), project: site.project.clone(), fate });
        }
        if remove.is_empty() {
            return;
        }
        let free = |name: &String| !servers.contains_key(name) || remove.contains(name);
        let own = [OWN.to_owned()].into_iter().chain((2..).map(|n| format!("{OWN}-{n}"))).find(free);
        let insert = own.filter(|_| !is_there).map(|own| (own, self.own(source.agent, site)));
        changes.push(Change { path: site.path.clone(), remove, insert: insert.into_iter().collect() });
    }

    /// The one entry.
    fn own(&self, agent: Agent, site: &Site) -> Value {
        let Program { path, is_found, env } = &self.program;
        // A file of a project is often shared with others, whose linchpin is elsewhere.
        let is_shared = site.project.is_some() && site.path.len() == 1;
        let mut args = vec![json!("mcp")];
        if let Some(project) = &site.project {
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
            // A first start may download a server, for which Codex would wait ten seconds only.
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

    /// Servers that the agent does not use, by their names there.
    fn disabled(&self, agent: Agent, site: &Site, root: &Value) -> Vec<String> {
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
                let Some(project) = site.project.as_deref().and_then(Path::to_str) else { return Vec::new() };
                let of = |root: &Value| -> Vec<String> {
                    let project = &root["projects"][project];
                    let lists = ["disabledMcpServers", "disabledMcpjsonServers"];
                    lists.iter().flat_map(|list| names(&project[*list])).collect()
                };
                if site.path.len() > 1 {
                    return of(root);
                }
                let users = self.places.all().into_iter().filter(|source| source.file.ends_with(".claude.json"));
                let root = users.filter_map(|source| Content::read(&source.file).ok()??.value().ok()).next();
                root.map(|root| of(&root)).unwrap_or_default()
            }
            Agent::ClaudeDesktop | Agent::Cursor | Agent::VsCode | Agent::Codex => Vec::new(),
        }
    }

    /// The name under which this server is declared, the one that it has already if it has one.
    fn name(&mut self, wanted: &str, server: Server) -> String {
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

/// Whether two are the same server. Where programs are looked for is the importer's and not theirs.
fn is_same(one: &Server, other: &Server) -> bool {
    let bare = |how: &How| {
        let mut how = how.clone();
        if let How::Stdio { env, .. } = &mut how {
            env.remove("PATH");
        }
        how
    };
    one.project_dir == other.project_dir && bare(&one.how) == bare(&other.how)
}
