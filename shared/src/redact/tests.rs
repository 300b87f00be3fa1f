use super::{REMOVED, words};
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
        let shown = super::text(text);
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
        assert_eq!(super::text(text), text);
    }
    assert_eq!(super::text("TOKEN=x next=y"), "TOKEN=[removed] next=y");
    assert_eq!(super::text(r#"{"token":"x","n":1}"#), r#"{"token":"[removed]","n":1}"#);
}

#[test]
fn a_command_line_keeps_everything_but_its_secrets() {
    let shown = words([
        "node",
        "server.js",
        "--token",
        "hunter2 and more",
        "--api-key=hunter2 and more",
        "DB_PASS=hunter2 x",
        "postgres://me:hunter2@localhost/db",
        "https://hunter2hunter2hunter2@example.org/x",
        "-H",
        "Authorization: Basic hunter2",
        "http://127.0.0.1:1/?access_token=hunter2",
        "--port",
        "3000",
        "--no-auth",
        "--verbose",
    ]);
    assert!(!shown.join(" ").contains("hunter2"), "{shown:?}");
    assert_eq!(shown[..4], ["node", "server.js", "--token", REMOVED]);
    assert_eq!(shown[11..], ["--port", "3000", "--no-auth", "--verbose"]);
    assert_eq!(words(["git", "clone", "https://me@example.org"])[2], "https://me@example.org");
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text: String, name in "(--)?(TOKEN|api_key|Bearer)[\"'\\\\:= ]{0,4}") {
        let _ = super::text(&text);
        let _ = super::text(&format!("{text}{name}{text}"));
    }

    #[test]
    fn a_quoted_value_is_gone(value in "[a-zA-Z0-9 +/=,;\"\\\\]{6,40}") {
        let text = json!({"a": 1, "token": format!("QZ{value}QZ"), "z": 2}).to_string();
        let shown = super::text(&text);
        prop_assert!(!shown.contains("QZ"), "{text} became {shown}");
    }
}
