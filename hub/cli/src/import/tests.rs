//! Takes the files of each agent, as the agents write them, through plan, apply and undo.

use super::agents::FileLocator;
use super::plan::{EntryAction, ImportPlan, ImportPlanner, LinchpinProgram};
use super::vars::Variables;
use super::{apply, show};
use jiff::Timestamp;
use linchpin_hub::declared::{ServerEndpoint, ServerList};
use linchpin_shared::home::Home;
use linchpin_shared::problem::{Code, Problem};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The files of the fixtures, by their paths in a home directory.
const FIXTURES: [(&str, &str); 7] = [
    (".claude.json", include_str!("fixtures/claude.json")),
    ("shop/.mcp.json", include_str!("fixtures/dot-mcp.json")),
    (".config/Claude/claude_desktop_config.json", include_str!("fixtures/claude_desktop_config.json")),
    (".cursor/mcp.json", include_str!("fixtures/cursor-mcp.json")),
    ("shop/.vscode/mcp.json", include_str!("fixtures/vscode-mcp.json")),
    (".codex/config.toml", include_str!("fixtures/codex-config.toml")),
    (".gemini/settings.json", include_str!("fixtures/gemini-settings.json")),
];

const SECRET: &str = "hunter2";

struct World {
    dir: tempfile::TempDir,
    locator: FileLocator,
    home: Home,
}

impl World {
    fn new(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let user = dir.path().canonicalize().unwrap().join("me");
        let project = user.join("shop");
        std::fs::create_dir_all(&project).unwrap();
        for (place, text) in files {
            let file = user.join(place);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text.replace("@PROJECT@", project.to_str().unwrap())).unwrap();
        }
        std::fs::write(user.join("search.env"), format!("EXTRA={SECRET}\n")).unwrap();
        let set = ["GITHUB_TOKEN", "DB_PASSWORD", "SEARCH_KEY", "LOCAL_TOKEN", "TRACKER_TOKEN", "TEAM", "DOCS_KEY"];
        let mut env: BTreeMap<_, _> = set.map(|name| (name.to_owned(), SECRET.to_owned())).into();
        env.insert("PATH".to_owned(), "/usr/bin".to_owned());
        let home = Home::at(dir.path().join("home"));
        home.prepare().unwrap();
        Self { locator: FileLocator { home: user, env, project }, home, dir }
    }

    fn plan(&self) -> ImportPlan {
        let program = LinchpinProgram { path: "/opt/linchpin".to_owned(), is_found: false, env: BTreeMap::new() };
        let declared = ServerList::read(&self.home).unwrap().servers;
        ImportPlanner::new(&self.locator, program, declared, Vec::new()).plan(&self.locator.all()).unwrap()
    }

    fn apply(&self) -> apply::Outcome {
        apply::apply(&self.home, &self.plan(), Timestamp::now()).unwrap()
    }

    fn undo(&self) -> apply::Outcome {
        let vars = Variables { env: self.locator.env.clone(), home: self.locator.home.clone() };
        apply::undo(&self.home, &[], &vars).unwrap()
    }

    fn file(&self, place: &str) -> PathBuf {
        self.locator.home.join(place)
    }

    fn text(&self, place: &str) -> String {
        std::fs::read_to_string(self.file(place)).unwrap()
    }

    fn texts(&self) -> Vec<String> {
        FIXTURES.iter().filter(|(place, _)| self.file(place).exists()).map(|(place, _)| self.text(place)).collect()
    }
}

/// What happens to each entry: its new name, `=` for Linchpin, or why it is left alone.
fn actions(plan: &ImportPlan) -> Vec<String> {
    let action = |action: &EntryAction| match action {
        EntryAction::Declare(name, lost) if lost.is_empty() => format!("+{name}"),
        EntryAction::Declare(name, lost) => format!("+{name} without {}", lost.join(",")),
        EntryAction::Linchpin => "=".to_owned(),
        EntryAction::LeaveAlone(why) => format!("-{}", why.split([' ', '(']).take(4).collect::<Vec<_>>().join(" ")),
    };
    let entries = plan.files.iter().flat_map(|file| file.entries.iter().map(move |entry| (file.agent.name(), entry)));
    entries.map(|(agent, entry)| format!("{agent}/{}: {}", entry.name, action(&entry.action))).collect()
}

#[test]
fn each_entry_of_each_agent_becomes_a_server_or_is_left_with_a_reason() {
    let world = World::new(&FIXTURES);
    let plan = world.plan();
    assert_eq!(
        actions(&plan),
        [
            "Claude Code/files: +files",
            "Claude Code/old: -it is disabled",
            "Claude Code/events: -it uses SSE, the",
            "Claude Code/tracker: -it needs a login",
            "VS Code/fetch: +fetch",
            "VS Code/asks: -the editor asks for",
            "VS Code/boxed: -the agent starts it",
            "Claude Code/memory: +memory",
            "Claude Code/github: +github",
            "Claude Code/db: +db",
            "Cursor/search: +search",
            "Cursor/local: +local",
            "Cursor/here: -${workspaceFolder} differs in each",
            "Cursor/linchpin: =",
            "Codex/docs: +docs without startup_timeout_sec",
            "Codex/memory: +memory",
            "Codex/off: -it is disabled",
            "Codex/some: -the agent selects its",
            "Codex/tracker: +tracker",
            "Gemini CLI/memory: +memory without timeout,trust",
            "Gemini CLI/web: +local",
            "Gemini CLI/stream: -it uses SSE ",
            "Gemini CLI/dropped: -it is disabled",
            "Claude Desktop/memory: +memory",
        ]
    );
    assert_eq!(plan.servers["memory"].from.len(), 4, "one server, found four times");
    assert_eq!(plan.servers["fetch"].project_dir, world.locator.project.join("tools"));
    let ServerEndpoint::Stdio { args, env, .. } = &plan.servers["search"].endpoint else { panic!() };
    let args_wanted = [world.file("tools/search.js").to_str().unwrap().to_owned(), "--key".into(), SECRET.into()];
    assert_eq!((args.as_slice(), env["EXTRA"].as_str(), env["PATH"].as_str()), (&args_wanted[..], SECRET, "/usr/bin"));
    let ServerEndpoint::Url { headers, .. } = &plan.servers["tracker"].endpoint else { panic!() };
    assert_eq!((headers["Authorization"].as_str(), headers["X-Team"].as_str()), ("Bearer hunter2", SECRET));
}

/// Fault 68: a value of an environment or a header is not shown.
#[test]
fn no_value_of_an_environment_is_shown() {
    let world = World::new(&FIXTURES);
    let plan = world.plan();
    for shown in [show::plan(&plan), show::json(&plan).to_string(), format!("{plan:?}")] {
        assert!(shown.contains("tracker"), "{shown}");
    }
    for shown in [show::plan(&plan), show::json(&plan).to_string()] {
        assert!(!shown.contains(SECRET), "{shown}");
    }
}

#[test]
fn apply_and_undo_give_the_same_bytes_and_a_second_apply_does_nothing() {
    let world = World::new(&FIXTURES);
    let before = world.texts();
    let (changed, problems) = world.apply();
    assert_eq!((changed.len(), problems.as_slice()), (7, &[][..]));
    let applied = world.texts();
    assert!(world.plan().files.iter().all(|file| file.changes.is_empty()), "{}", show::plan(&world.plan()));
    assert!(world.apply().0.is_empty());
    assert_eq!(applied, world.texts());
    let claude: Value = serde_json::from_str(&applied[0]).unwrap();
    let project = world.locator.project.to_str().unwrap();
    assert_eq!(claude["mcpServers"]["linchpin"]["args"], json!(["mcp"]));
    assert_eq!(claude["projects"][project]["mcpServers"]["linchpin"]["args"], json!(["mcp", "--project", project]));
    assert!(claude["projects"]["/somewhere/else"]["mcpServers"]["other"].is_object());
    assert!(
        applied[4].contains("// where it is") || applied[4].contains("// Runs in the container."),
        "{}",
        applied[4]
    );
    assert!(applied[5].contains("# our tracker") && applied[5].contains("# ask me"), "{}", applied[5]);

    let (given_back, problems) = world.undo();
    assert_eq!((given_back.len(), problems.as_slice()), (7, &[][..]));
    assert_eq!(world.texts(), before);
    assert_eq!(ServerList::read(&world.home).unwrap(), ServerList::default());
    assert!(given_back.iter().all(|changed| changed.backup.exists()), "backups stay");
}

#[test]
fn a_file_that_was_written_since_keeps_that_and_gets_its_servers_back() {
    let world = World::new(&FIXTURES);
    world.apply();
    for (place, old, new) in [(".claude.json", "184", "185"), (".codex/config.toml", "gpt-5-codex", "gpt-6")] {
        std::fs::write(world.file(place), world.text(place).replace(old, new)).unwrap();
    }
    let (given_back, problems) = world.undo();
    assert_eq!((given_back.len(), problems.as_slice()), (7, &[][..]));
    let claude: Value = serde_json::from_str(&world.text(".claude.json")).unwrap();
    assert_eq!(claude["numStartups"], 185);
    assert!(claude["mcpServers"]["memory"].is_object() && claude["mcpServers"]["linchpin"].is_null());
    let codex: Value = toml::from_str(&world.text(".codex/config.toml")).unwrap();
    assert_eq!((&codex["model"], &codex["mcp_servers"]["docs"]["env"]["LEVEL"]), (&json!("gpt-6"), &json!("2")));
}

#[test]
fn a_file_that_changes_under_our_hands_is_left_and_the_others_are_done() {
    let world = World::new(&FIXTURES);
    let plan = world.plan();
    std::fs::write(world.file(".claude.json"), world.text(".claude.json").replace("184", "185")).unwrap();
    let (changed, problems) = apply::apply(&world.home, &plan, Timestamp::now()).unwrap();
    assert_eq!((changed.len(), problems.len(), problems[0].code), (6, 1, Code::Cancelled));
    let list = ServerList::read(&world.home).unwrap();
    assert!(list.servers.contains_key("memory") && !list.servers.contains_key("db"), "{list:?}");
    assert!(world.text(".claude.json").contains("185"));
}

#[test]
fn a_file_that_cannot_be_read_is_told_with_its_place_and_costs_only_itself() {
    let world = World::new(&[(".cursor/mcp.json", "{\n  \"mcpServers\": {,}\n}"), FIXTURES[6]]);
    let (changed, problems) = world.apply();
    assert!(changed.len() == 1 && problems.is_empty());
    let plan = world.plan();
    let problem: Vec<&Problem> = plan.files.iter().filter_map(|file| file.after.as_ref().err()).collect();
    assert!(problem[0].detail.contains("line 2, column 18"), "{}", problem[0]);
}

#[test]
fn links_are_followed_modes_stay_and_backups_are_private_and_never_overwritten() {
    let world = World::new(&[FIXTURES[6]]);
    let (file, real) = (world.file(".gemini/settings.json"), world.dir.path().join("dotfile.json"));
    std::fs::rename(&file, &real).unwrap();
    std::os::unix::fs::symlink(&real, &file).unwrap();
    std::fs::set_permissions(&real, std::fs::Permissions::from_mode(0o640)).unwrap();
    let now = Timestamp::now();
    let mut backups = Vec::new();
    for _ in 0..3 {
        let (changed, _) = apply::apply(&world.home, &world.plan(), now).unwrap();
        backups.push(changed[0].backup.clone());
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode(&real), mode(&changed[0].backup)), (0o640, 0o600));
        assert!(file.symlink_metadata().unwrap().is_symlink());
        world.undo();
    }
    backups.dedup();
    assert_eq!(backups.len(), 3, "{backups:?}");
    std::fs::hard_link(&real, world.dir.path().join("second")).unwrap();
    let planner = ImportPlanner::new(
        &world.locator,
        LinchpinProgram { path: String::new(), is_found: false, env: BTreeMap::new() },
        BTreeMap::new(),
        Vec::new(),
    );
    assert!(planner.plan(&world.locator.all()).unwrap_err().detail.contains("hard links"));
}

#[test]
fn different_servers_of_one_name_get_names_of_their_own() {
    let entry = |command: &str| {
        json!({"mcpServers": {"My Server": {"command": command}, "linchpin": {"command": "x"}}}).to_string()
    };
    let (one, other) = (entry("a"), entry("b"));
    let world = World::new(&[(".cursor/mcp.json", &one), (".gemini/settings.json", &other)]);
    let names = |plan: &ImportPlan| plan.servers.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&world.plan()), ["linchpin-2", "my-server", "my-server-2"]);
    world.apply();
    let later = World::new(&[(".cursor/mcp.json", &entry("c"))]);
    std::fs::copy(world.home.declared_file(), later.home.declared_file()).unwrap();
    assert_eq!(names(&later.plan()), ["linchpin-3", "my-server-3"], "another home, so another directory");
}

#[test]
fn an_empty_home_has_nothing_to_do() {
    let world = World::new(&[]);
    assert!(show::plan(&world.plan()).contains("no file of a known agent was found"));
    assert!(world.apply().0.is_empty() && world.undo().0.is_empty());
    let empty = World::new(&[(".claude.json", ""), (".cursor/mcp.json", "{}")]);
    assert!(show::plan(&empty.plan()).contains("nothing to do"));
}

fn servers() -> impl Strategy<Value = Value> {
    let entry = prop_oneof![
        "[a-c]{1,3}".prop_map(|command| json!({"command": command, "args": ["x y", "\u{e9}\n"], "env": {"A": "1"}})),
        Just(json!({"command": "/usr/bin/linchpin", "args": ["mcp"]})),
        Just(json!({"url": "https://x/mcp"})),
        Just(json!({"url": "https://x/mcp", "headers": {"A": "b"}})),
        Just(json!({"command": "off", "disabled": true})),
    ];
    prop::collection::btree_map("[a-d]{1,3}( [a-d])?|linchpin", entry, 0..6)
        .prop_map(|map| Value::Object(map.into_iter().collect()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn whatever_stands_there_apply_and_undo_give_the_same_bytes(servers in servers(), layout in 0..4, bom: bool) {
        let value = json!({"a": [1.0, {"b": null}], "mcpServers": servers, "z": "\u{1F600}"});
        let text = match layout {
            0 => value.to_string(),
            1 => format!("{value:#}\n"),
            2 => format!("{value:#}").replace('\n', "\r\n").replace("  ", "\t"),
            _ => format!("// mine\n{value:#}// end").replace("},\n", "}, // one\n"),
        };
        let text = if bom { format!("\u{feff}{text}") } else { text };
        let world = World::new(&[(".cursor/mcp.json", &text)]);
        let (_, problems) = world.apply();
        prop_assert!(problems.is_empty(), "{problems:?}");
        let after = super::jsonc::parse(&world.text(".cursor/mcp.json")).unwrap().value();
        prop_assert_eq!((&after["a"], &after["z"]), (&value["a"], &value["z"]));
        prop_assert!(world.plan().files.iter().all(|file| file.changes.is_empty()));
        world.undo();
        prop_assert_eq!(world.text(".cursor/mcp.json"), text);
    }
}
