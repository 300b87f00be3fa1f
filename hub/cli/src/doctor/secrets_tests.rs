use super::*;
use serde_json::json;

#[test]
fn a_field_with_a_secret_name_is_removed() {
    let mut value = json!({"labels": {"API_TOKEN": "x", "n": 1}, "key": "hub.port", "list": ["PASSWORD=y"]});
    Secrets::default().value(&mut value);
    let expected =
        json!({"labels": {"API_TOKEN": REMOVED, "n": 1}, "key": "hub.port", "list": [format!("PASSWORD={REMOVED}")]});
    assert_eq!(value, expected);
}

#[test]
fn secrets_in_broken_files_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::at(dir.path().join("home"));
    home.prepare().unwrap();
    std::fs::write(home.hub_file(), r#"{"token": "one-11111"}"#).unwrap();
    std::fs::write(home.instances().join("a.json"), r#"{"secret": "two-22222", "x": "#).unwrap();
    std::fs::write(
        home.instances().join("quarantine/b.json.1"),
        r#"{"secret": 333333333, "deep": [{"secret":"\u0066our4444"}]}"#,
    )
    .unwrap();
    let shown = Secrets::of(&home).text("one-11111 and two-22222, 333333333/four4444 end");
    assert_eq!(shown, "[removed] and [removed], [removed]/[removed] end");
}
