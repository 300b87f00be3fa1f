//! The list of declared servers on a real file system.

use super::*;
use std::os::unix::fs::PermissionsExt;

const LIST: &str = r#"{"format":1,"colour":"blue","servers":{
    "files":{"project_dir":"/p","command":"npx","args":["-y","x"],"env":{"TOKEN":"hunter2"},"mood":1.0},
    "web":{"project_dir":"/p","url":"http://127.0.0.1:1/mcp","headers":{"Authorization":"Bearer hunter2"}}}}"#;

fn home_with(text: &str, mode: u32) -> (tempfile::TempDir, Home) {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::at(dir.path().join("home"));
    home.prepare().unwrap();
    std::fs::write(home.declared_file(), text).unwrap();
    std::fs::set_permissions(home.declared_file(), std::fs::Permissions::from_mode(mode)).unwrap();
    (dir, home)
}

#[test]
fn a_changed_list_keeps_unknown_fields() {
    let (_dir, home) = home_with(LIST, 0o600);
    let gone = ServerList::change(&home, |list| Ok(list.servers.remove("web").is_some())).unwrap();
    let list = ServerList::read(&home).unwrap();
    assert!(gone && list.servers.len() == 1 && list.other["colour"] == "blue");
    let files = &list.servers["files"];
    assert_eq!(files.other["mood"].to_string(), "1.0");
    assert!(
        matches!(&files.endpoint, ServerEndpoint::Stdio { command, args, .. } if command == "npx" && args.len() == 2)
    );
    assert_eq!(home.declared_file().metadata().unwrap().permissions().mode() & 0o7777, 0o600);
    let failed = ServerList::change(&home, |list| {
        list.servers.clear();
        Err::<(), _>(Problem::new(Code::Internal, "no"))
    });
    assert!(failed.is_err() && ServerList::read(&home).unwrap() == list);
}

#[test]
fn a_missing_list_is_empty_and_is_created_by_a_change() {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::at(dir.path().join("home"));
    assert_eq!(ServerList::read(&home).unwrap(), ServerList::default());
    ServerList::change(&home, |_| Ok(())).unwrap();
    assert!(home.declared_file().exists());
}

/// Fault 66: commands are not taken from a list that other users can write.
#[test]
fn a_list_that_is_not_private_is_not_read() {
    for mode in [0o644, 0o660, 0o602] {
        let (_dir, home) = home_with(LIST, mode);
        let problem = ServerList::read(&home).unwrap_err();
        assert!(problem.code == Code::BadSettings && problem.to_string().contains("chmod 600"), "{problem}");
    }
    let (dir, home) = home_with(LIST, 0o600);
    std::fs::rename(home.declared_file(), dir.path().join("elsewhere")).unwrap();
    std::os::unix::fs::symlink(dir.path().join("elsewhere"), home.declared_file()).unwrap();
    assert_eq!(ServerList::read(&home).unwrap_err().code, Code::BadSettings);
}

/// Fault 68.
#[test]
fn an_error_names_its_place_without_the_value() {
    for (text, word) in [
        ("{", "EOF"),
        (r#"{"format":1,"servers":{"x":{"project_dir":"/p"}}}"#, "servers.x"),
        (r#"{"format":1,"servers":{"x":{"project_dir":["hunter2"],"command":"c"}}}"#, "servers.x"),
        (r#"{"format":1,"servers":{"X Y":{"project_dir":"/p","command":"c"}}}"#, "valid name"),
        (r#"{"format":1,"servers":{"x":{"project_dir":"p","command":"c"}}}"#, "absolute"),
        (r#"{"format":1,"servers":{"x":{"project_dir":"/p","command":""}}}"#, "empty"),
        (r#"{"format":1,"servers":{"x":{"project_dir":"/p","command":"c","env":{"A=B":"hunter2"}}}}"#, "variable"),
    ] {
        let (_dir, home) = home_with(text, 0o600);
        let problem = ServerList::read(&home).unwrap_err().to_string();
        assert!(problem.contains(word) && !problem.contains("hunter2"), "{text}: {problem}");
    }
    let (_dir, home) = home_with(LIST, 0o600);
    let shown = format!("{:?}", ServerList::read(&home).unwrap().servers);
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[test]
fn a_newer_format_is_read_and_not_written() {
    let (_dir, home) = home_with(r#"{"format":2,"servers":{}}"#, 0o600);
    assert_eq!(ServerList::read(&home).unwrap().format, 2);
    assert_eq!(ServerList::change(&home, |_| Ok(())).unwrap_err().code, Code::BadSettings);
}
