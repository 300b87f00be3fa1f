use super::*;
use serde_json::json;

#[test]
fn in_a_value_the_name_of_a_field_counts() {
    let mut value = json!({"labels": {"API_TOKEN": "x", "n": 1}, "key": "hub.port", "list": ["PASSWORD=y"]});
    Secrets::default().value(&mut value);
    let expected =
        json!({"labels": {"API_TOKEN": REMOVED, "n": 1}, "key": "hub.port", "list": [format!("PASSWORD={REMOVED}")]});
    assert_eq!(value, expected);
}

#[test]
fn the_secrets_of_a_home_are_found_also_in_broken_files() {
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
