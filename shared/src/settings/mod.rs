//! The settings of a user, in layers: the embedded `default.toml`, then `config.toml`, then the environment.
//!
//! Every value has its default in `default.toml` and nowhere else, and remembers its origin. A key that does not exist is
//! an error in every layer, because a misspelt setting that is silently ignored is worse than none. Settings contain no
//! secrets, and this module does not write them.

mod sections;

pub use sections::{
    DiscoverySettings, GatewaySettings, HubSettings, InstanceSettings, LinkSettings, LogSettings, ToolListing,
};

use crate::home::Home;
use crate::problem::{Code, Problem};
use sections::{MAY_BE_ZERO, Sections};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// The text of `default.toml`: all defaults with their descriptions.
pub const DEFAULTS: &str = include_str!("default.toml");

/// The prefix of the environment variables of all settings, `LINCHPIN_<SECTION>_<KEY>`.
const PREFIX: &str = "LINCHPIN_";

/// The settings of the hub and of its instances, with their origins.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The HTTP server of the hub.
    pub hub: HubSettings,
    /// How the hub finds instances.
    pub discovery: DiscoverySettings,
    /// The hub's connections to instances.
    pub link: LinkSettings,
    /// The MCP gateway for agents.
    pub gateway: GatewaySettings,
    /// The processes of an instance.
    pub instance: InstanceSettings,
    /// The sizes of log files.
    pub log: LogSettings,
    values: Values,
}

/// The layer that a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The embedded `default.toml`.
    Default,
    /// The settings file at this path.
    File(PathBuf),
    /// The environment variable with this name.
    Env(String),
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Env(name) => f.write_str(name),
        }
    }
}

/// Every value with its origin, by its key `section.key`.
type Values = BTreeMap<String, (Value, Origin)>;

impl Settings {
    /// Loads the settings of this home and of the environment of this process.
    ///
    /// # Errors
    /// [`Code::BadSettings`] naming every key that does not exist, or the first whose value cannot be used.
    pub fn load(home: &Home) -> Result<Self, Problem> {
        let path = home.settings_file();
        let file = match std::fs::read_to_string(path) {
            Ok(text) => Some(text),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => None,
            Err(error) => {
                return Err(Problem::from_io(&error, Code::BadSettings, "cannot read the settings")
                    .seen("path", path.display().to_string())
                    .next(format!("ls -l {}", path.display())));
            }
        };
        // A variable that is not Unicode is not a setting, because all names and values of settings are ASCII.
        let env =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        Self::from_layers(file.as_deref().map(|text| (path, text)), env)
    }

    /// Merges the defaults with this file and this environment.
    ///
    /// # Errors
    /// The same as those of [`Settings::load`].
    pub fn from_layers(
        file: Option<(&Path, &str)>,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, Problem> {
        let mut values = defaults()?;
        if let Some((path, text)) = file {
            apply_file(&mut values, path, text)?;
        }
        apply_env(&mut values, env)?;
        Self::typed(values)
    }

    /// The origin of the value of this key, `section.key`.
    #[must_use]
    pub fn origin(&self, key: &str) -> Option<&Origin> {
        self.values.get(key).map(|(_, origin)| origin)
    }

    /// Every key, `section.key`, with its value and its origin.
    pub fn values(&self) -> impl Iterator<Item = (&str, &Value, &Origin)> {
        self.values.iter().map(|(key, (value, origin))| (key.as_str(), value, origin))
    }

    fn typed(values: Values) -> Result<Self, Problem> {
        let zero = |value: &Value| value.as_integer() == Some(0);
        if let Some((key, _)) =
            values.iter().find(|(key, value)| zero(&value.0) && !MAY_BE_ZERO.contains(&key.as_str()))
        {
            return Err(invalid_setting(&values, key, "must be more than 0"));
        }
        let mut table = Table::new();
        for (key, (value, _)) in &values {
            let (section, name) = key.split_once('.').unwrap_or(("", key));
            let section = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(section) = section {
                section.insert(name.to_owned(), value.clone());
            }
        }
        let sections: Sections = serde_path_to_error::deserialize(Value::Table(table)).map_err(|error| {
            invalid_setting(&values, &error.path().to_string(), &format!("cannot be used: {}", error.inner().message()))
        })?;
        if let Some((key, rule)) = sections.contradiction() {
            return Err(invalid_setting(&values, key, rule));
        }
        let Sections { hub, discovery, link, gateway, instance, log } = sections;
        Ok(Self { hub, discovery, link, gateway, instance, log, values })
    }
}

/// The defaults, without the settings file and the environment.
impl Default for Settings {
    #[expect(clippy::expect_used, reason = "the text is part of the program, and a test parses it")]
    fn default() -> Self {
        Self::from_layers(None, []).expect("default.toml is complete")
    }
}

fn defaults() -> Result<Values, Problem> {
    let table = parse(Path::new("default.toml"), DEFAULTS)?;
    Ok(flatten(table).map(|(key, value)| (key, (value, Origin::Default))).collect())
}

fn parse(path: &Path, text: &str) -> Result<Table, Problem> {
    text.parse().map_err(|error: toml::de::Error| {
        Problem::new(Code::BadSettings, format!("the settings file is not TOML: {error}"))
            .seen("path", path.display().to_string())
            .next("correct or remove the line that is named")
    })
}

/// The values of a table by `section.key`. A value outside of all sections keeps its bare name, which is not a key.
fn flatten(table: Table) -> impl Iterator<Item = (String, Value)> {
    table.into_iter().flat_map(|(section, value)| match value {
        Value::Table(keys) => keys.into_iter().map(|(key, value)| (format!("{section}.{key}"), value)).collect(),
        bare @ (Value::String(_)
        | Value::Integer(_)
        | Value::Float(_)
        | Value::Boolean(_)
        | Value::Datetime(_)
        | Value::Array(_)) => vec![(section, bare)],
    })
}

fn apply_file(values: &mut Values, path: &Path, text: &str) -> Result<(), Problem> {
    let origin = Origin::File(path.to_owned());
    let (known, unknown): (Vec<_>, Vec<_>) = flatten(parse(path, text)?).partition(|(key, _)| values.contains_key(key));
    if !unknown.is_empty() {
        let names: Vec<_> = unknown.into_iter().map(|(key, _)| key).collect();
        return Err(unknown_setting(values, &names, &origin));
    }
    for (key, value) in known {
        set_value(values, &key, value, origin.clone())?;
    }
    Ok(())
}

fn apply_env(values: &mut Values, env: impl IntoIterator<Item = (String, String)>) -> Result<(), Problem> {
    let by_variable: BTreeMap<String, String> = values.keys().map(|key| (variable(key), key.clone())).collect();
    let sections: Vec<String> = values.keys().filter_map(|key| Some(variable(key.split_once('.')?.0) + "_")).collect();
    // The variables are sorted, so that the same one of several mistakes is reported each time.
    for (name, text) in env.into_iter().collect::<BTreeMap<_, _>>() {
        if let Some(key) = by_variable.get(&name) {
            let value = text.parse().unwrap_or(Value::String(text));
            set_value(values, key, value, Origin::Env(name))?;
        } else if sections.iter().any(|section| name.starts_with(section)) {
            return Err(unknown_setting(values, std::slice::from_ref(&name), &Origin::Env(name.clone())));
        }
    }
    Ok(())
}

/// Replaces the value of the layer below, which must have the same type.
fn set_value(values: &mut Values, key: &str, value: Value, origin: Origin) -> Result<(), Problem> {
    let expected = values.get(key).map_or("", |(below, _)| below.type_str());
    let seen = value.type_str();
    values.insert(key.to_owned(), (value, origin));
    if expected == seen {
        Ok(())
    } else {
        Err(invalid_setting(values, key, &format!("must be of type {expected}, not {seen}")))
    }
}

/// The environment variable of a key, or the prefix of those of a section.
fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "_").to_uppercase())
}

fn invalid_setting(values: &Values, key: &str, why: &str) -> Problem {
    let problem = Problem::new(Code::BadSettings, format!("{key} {why}")).seen("key", key);
    match values.get(key) {
        Some((value, origin)) => problem
            .seen("value", value.to_string())
            .seen("from", origin.to_string())
            .next(format!("change {key} in {origin}, or remove it there to get the default")),
        None => problem.next("change or remove it"),
    }
}

fn unknown_setting(values: &Values, names: &[String], origin: &Origin) -> Problem {
    let sections: Vec<&str> = names.iter().filter_map(|name| Some(name.split_once('.')?.0)).collect();
    let known = |key: &&String| sections.is_empty() || key.split_once('.').is_some_and(|(s, _)| sections.contains(&s));
    let mut there: Vec<&str> = values.keys().filter(known).map(String::as_str).collect();
    if there.is_empty() {
        there = values.keys().map(String::as_str).collect();
    }
    Problem::new(Code::BadSettings, format!("there is no setting called {}", names.join(", ")))
        .seen("from", origin.to_string())
        .seen("there are", there.join(", "))
        .next(format!("correct or remove it in {origin}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn with(file: &str, env: &[(&str, &str)]) -> Result<Settings, Problem> {
        let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Settings::from_layers(Some((Path::new("/c.toml"), file)), env)
    }

    #[test]
    fn the_defaults_are_complete() {
        let settings = Settings::default();
        let unread_timeout = Duration::from_secs(60);
        let hub = HubSettings { port: 7777, token_required: true, max_connections: 4096, unread_timeout };
        assert_eq!(settings.hub, hub);
        assert!(settings.link.ping_interval + settings.link.ping_timeout < Duration::from_secs(3));
        assert_eq!(settings.log, LogSettings { max_bytes: 10 << 20, keep: 5 });
        assert!(settings.values().all(|(_, _, origin)| *origin == Origin::Default));
    }

    #[test]
    fn each_default_has_a_comment() {
        let mut explained = false;
        for line in DEFAULTS.lines() {
            match line.chars().next() {
                Some('#') => explained = true,
                Some('[') | None => explained = false,
                Some(_) => assert!(explained, "{line}"),
            }
        }
    }

    #[test]
    fn the_environment_overrides_the_file_and_the_defaults() {
        let file = "[hub]\nport = 1\ntoken_required = false\n[link]\ndial_timeout_ms = 7\n";
        let settings = with(file, &[("LINCHPIN_HUB_PORT", "0"), ("LINCHPIN_HOME", "/x"), ("HOME", "/y")]).unwrap();
        assert_eq!((settings.hub.port, settings.hub.token_required, settings.hub.max_connections), (0, false, 4096));
        assert_eq!(settings.link.dial_timeout, Duration::from_millis(7));
        assert_eq!(settings.origin("hub.port"), Some(&Origin::Env(String::from("LINCHPIN_HUB_PORT"))));
        assert_eq!(settings.origin("hub.token_required"), Some(&Origin::File(PathBuf::from("/c.toml"))));
        assert_eq!(settings.origin("link.hello_timeout_ms"), Some(&Origin::Default));
        assert_eq!(settings.origin("hub.colour"), None);
    }

    #[test]
    fn an_unknown_setting_is_named() {
        for (file, env, name) in [
            ("[hub]\nprot = 1", vec![], "hub.prot"),
            ("[hbu]\nport = 1", vec![], "hbu.port"),
            ("port = 1", vec![], "port"),
            ("[hub.port]\nx = 1", vec![], "hub.port"),
            ("", vec![("LINCHPIN_LINK_PING", "1")], "LINCHPIN_LINK_PING"),
        ] {
            let problem = with(file, &env).unwrap_err();
            assert_eq!(problem.code, Code::BadSettings);
            assert!(problem.detail.contains(name), "{problem}");
            assert!(!problem.next_steps.is_empty());
        }
        let problem = with("[hub]\nprot = 1\nhots = 2", &[]).unwrap_err();
        assert!(problem.detail.ends_with("hub.hots, hub.prot"), "all of them: {problem}");
        assert_eq!(
            problem.observed["there are"],
            "hub.max_connections, hub.port, hub.token_required, hub.unread_timeout_ms"
        );
    }

    #[test]
    fn an_invalid_setting_is_named_with_its_origin() {
        for (file, env, key, word) in [
            ("[hub]\nport = \"x\"", vec![], "hub.port", "integer"),
            ("[hub]\nport = 70000", vec![], "hub.port", "expected u16"),
            ("[link]\nin_flight = -1", vec![], "link.in_flight", "-1"),
            ("[link]\nping_interval_ms = 0", vec![], "link.ping_interval_ms", "more than 0"),
            ("[link]\nbackoff_min_ms = 9000", vec![], "link.backoff_max_ms", "less than"),
            ("", vec![("LINCHPIN_HUB_TOKEN_REQUIRED", "yes")], "hub.token_required", "boolean"),
            ("", vec![("LINCHPIN_HUB_PORT", "")], "hub.port", "integer"),
        ] {
            let problem = with(file, &env).unwrap_err();
            assert_eq!(problem.observed["key"], key, "{problem}");
            assert!(problem.to_string().contains(word), "{problem}");
            assert!(problem.observed.contains_key("from"));
        }
    }

    #[test]
    fn a_broken_file_is_shown_with_its_line() {
        let problem = with("[hub]\nport = = 1", &[]).unwrap_err();
        assert!(problem.detail.contains("line 2"), "{problem}");
        assert_eq!(problem.observed["path"], "/c.toml");
    }

    #[test]
    fn a_home_without_a_settings_file_has_the_defaults() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path());
        let port = || Settings::load(&home).unwrap().values["hub.port"].clone();
        assert_eq!(port(), (Value::Integer(7777), Origin::Default));
        std::fs::write(home.settings_file(), "[hub]\nport = 5\n").unwrap();
        assert_eq!(port(), (Value::Integer(5), Origin::File(home.settings_file().to_owned())));
        std::fs::remove_file(home.settings_file()).unwrap();
        std::fs::create_dir(home.settings_file()).unwrap();
        assert_eq!(Settings::load(&home).unwrap_err().code, Code::BadSettings);
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_and_never_panics(file: String, value: String) {
            let _ = with(&file, &[("LINCHPIN_LINK_IN_FLIGHT", &value)]);
        }
    }
}
