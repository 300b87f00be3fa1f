use super::*;
use proptest::prelude::*;
use serde_json::json;

#[test]
fn values_are_removed_by_their_name() {
    for text in [
        "API_KEY=hunter2",
        "export GITHUB_TOKEN='hunter2 x'",
        r#"{"password": "hunter2", "a": 1}"#,
        r#"{"secret":"a\"hunter2"}"#,
        r#"log "{\"token\":\"hunter2\",\"b\":1}" end"#,
        "node server.js --token hunter2 --port 1",
        "node server.js --api-key=hunter2",
        "authorization: Basic hunter2",
        "curl -H 'Authorization: Bearer hunter2' http://x",
        "sent Bearer hunter2 to it",
        "db_password: hunter2",
        "Config { secret_key: hunter2 }",
        "postgres://me:hunter2@localhost/db",
        "postgres://me:h@hunter2@localhost/db",
        "PASSWORD=a,hunter2;hunter2",
        "TOKEN: \"hunter2",
        "AWS_KEY_ID=hunter2",
    ] {
        let shown = blank(text);
        assert!(!shown.contains("hunter2") && shown.contains(REMOVED), "{text} became {shown}");
    }
}

#[test]
fn what_is_no_secret_stays() {
    for text in [
        "the token is switched off by the settings",
        "hub on http://127.0.0.1:7777 (pid 42)",
        "no secret here",
        "keyboard: qwerty",
        "mail me@example.org: now",
    ] {
        assert_eq!(blank(text), text);
    }
    assert_eq!(blank("TOKEN=x next=y"), "TOKEN=[removed] next=y");
    assert_eq!(blank(r#"{"token":"x","n":1}"#), r#"{"token":"[removed]","n":1}"#);
}

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

proptest! {
    #[test]
    fn no_text_makes_it_panic(text: String, name in "(--)?(TOKEN|api_key|Bearer)[\"'\\\\:= ]{0,4}") {
        blank(&text);
        blank(&format!("{text}{name}{text}"));
    }

    #[test]
    fn a_quoted_value_is_gone(value in "[a-zA-Z0-9 +/=,;\"\\\\]{6,40}") {
        let text = json!({"a": 1, "token": format!("QZ{value}QZ"), "z": 2}).to_string();
        let shown = blank(&text);
        prop_assert!(!shown.contains("QZ"), "{text} became {shown}");
    }
}
