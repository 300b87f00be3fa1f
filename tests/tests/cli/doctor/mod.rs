//! `linchpin doctor`: the real binary in private homes with one fault each.

mod lab;
mod problems;

use lab::{DoctorLab, mode, said, set_mode};
use linchpin_shared::process::{Identity, Signal};
use linchpin_shared::registry::record::instance_id;
use serde_json::{Value, json};
use std::path::Path;

#[test]
fn healthy_home_passes_and_stays_unchanged() {
    let lab = DoctorLab::new();
    let shop = lab.live("shop");
    let before = lab.files();
    let said = lab.doctor(&[]);
    assert_eq!((said.code, &said.json["schema_version"]), (0, &json!(1)), "{}", said.text);
    for name in [
        "home",
        "permissions",
        "settings",
        "lock",
        "file system",
        "leases",
        "leftovers",
        "logs",
        "clock",
        "hub",
        "token",
    ] {
        assert_eq!(said.check(name)["level"], "ok", "{}", said.text);
    }
    assert_eq!(said.record("shop")["level"], "ok", "{}", said.text);
    assert_ne!(said.json["worst"], "error");
    let text = lab.run(&[]);
    assert_eq!(text.code, 0);
    assert!(text.text.contains("record shop: alive") && text.text.contains("errors: 0"), "{}", text.text);
    assert_eq!(lab.files(), before);
    lab.no_hub_ran();
    shop.unregister().unwrap();
}

#[test]
fn missing_home_passes_and_is_not_created() {
    let lab = DoctorLab::new();
    let place = lab.path("nowhere/deep");
    for arguments in [&["doctor", "--json"][..], &["doctor", "--json", "--fix"]] {
        let said = said(lab.linchpin(arguments).env("LINCHPIN_HOME", &place));
        assert_eq!(said.code, 0, "{}", said.text);
        assert_eq!(said.check("home")["level"], "ok");
    }
    assert!(!lab.path("nowhere").exists());
    let said = said(lab.linchpin(&["doctor", "--json"]).env("LINCHPIN_HOME", "relative"));
    assert_eq!((said.code, &said.check("home")["level"]), (1, &json!("error")), "{}", said.text);
}

#[test]
fn open_home_is_reported_and_repaired_only_on_request() {
    let lab = DoctorLab::new();
    let record = lab.plant("instances/a.json", b"{}");
    set_mode(lab.home.root(), 0o755);
    set_mode(&record, 0o644);
    let said = lab.doctor(&[]);
    assert_eq!((said.code, mode(lab.home.root()), mode(&record)), (1, 0o755, 0o644), "{}", said.text);
    let told = said.checks("permissions");
    assert_eq!(told.len(), 2, "{}", said.text);
    assert!(told[0]["problem"]["next_steps"][0].as_str().unwrap().contains("--fix"));

    let said = lab.doctor(&["--fix"]);
    assert_eq!((mode(lab.home.root()), mode(&record)), (0o700, 0o600), "{}", said.text);
    assert_eq!(said.check("permissions")["level"], "ok");
    let what: Vec<&str> =
        said.json["fixes"].as_array().unwrap().iter().map(|fix| fix["what"].as_str().unwrap()).collect();
    assert!(what.len() == 2 && what[0].contains("0700") && what[1].contains("0600"), "{what:?}");
    lab.no_hub_ran();
}

#[test]
fn world_writable_record_is_not_repaired() {
    let lab = DoctorLab::new();
    let record = lab.plant("instances/a.json", b"{}");
    set_mode(&record, 0o666);
    let said = lab.doctor(&["--fix"]);
    assert_eq!((said.code, mode(&record)), (1, 0o666), "{}", said.text);
    assert!(said.check("permissions")["seen"].as_str().unwrap().contains("others can write"), "{}", said.text);
}

#[test]
fn corrupt_record_is_named_and_left_in_place() {
    let lab = DoctorLab::new();
    let _shop = lab.live("shop");
    let broken = lab.plant("instances/00000000-0000-0000-0000-000000000009.json", b"{\"format\":1,");
    for arguments in [&[][..], &["--fix"]] {
        let said = lab.doctor(arguments);
        assert_eq!(said.code, 1, "{}", said.text);
        assert_eq!(said.record("shop")["level"], "ok");
        let told = said.record(&broken.display().to_string());
        assert_eq!((&told["level"], &told["problem"]["code"]), (&json!("error"), &json!("bad_record")));
        assert!(!told["problem"]["next_steps"].as_array().unwrap().is_empty());
        assert!(broken.exists());
    }
}

#[test]
fn fix_sweeps_dead_records_and_never_live_ones() {
    let lab = DoctorLab::new();
    let _shop = lab.live("shop");
    // Its process is this one, which runs, although its lease is free: it is not proven dead.
    drop(lab.live("lost"));
    let path = |name| lab.registry.dir().join(format!("{}.json", instance_id(Path::new("/project"), name)));
    let dead = lab.dead("dead");
    let said = lab.doctor(&[]);
    assert_eq!(said.code, 0, "warnings only: {}", said.text);
    assert_eq!(
        (&said.record("dead")["level"], &said.record("dead")["problem"]["code"]),
        (&json!("warning"), &json!("stale"))
    );
    assert!(said.record("lost")["seen"].as_str().unwrap().contains("does not hold its lease"), "{}", said.text);
    assert!(dead.exists());

    let said = lab.doctor(&["--fix"]);
    assert!(!dead.exists() && !dead.with_extension("lease").exists(), "{}", said.text);
    assert!(path("shop").exists() && path("lost").exists(), "{}", said.text);
    assert!(said.json["fixes"].to_string().contains("record of dead"), "{}", said.text);
    assert_eq!(said.checks("record").len(), 2);
    lab.no_hub_ran();
}

#[test]
fn fix_removes_leftovers_of_dead_writers() {
    let lab = DoctorLab::new();
    let ended = lab.dead("dead");
    let me = Identity::current().unwrap();
    let name = |ticks: u64| format!("instances/.new-{}-{ticks}-abc", me.pid);
    let (left, written) = (lab.plant(&name(me.start_ticks + 1), b"x"), lab.plant(&name(me.start_ticks), b"x"));
    std::fs::remove_file(&ended).unwrap();
    let orphan = ended.with_extension("lease");
    let held = lab.registry.dir().join("00000000-0000-0000-0000-000000000001.lease");
    let holder = lab.stopped_holder(&held);
    let said = lab.doctor(&["--fix"]);
    assert!(!left.exists() && !orphan.exists(), "{}", said.text);
    assert!(written.exists() && held.exists(), "{}", said.text);
    assert_eq!(said.json["fixes"].as_array().unwrap().len(), 2, "{}", said.text);
    assert_eq!(said.check("leases")["level"], "warning", "the held one is no longer reported: {}", said.text);
    holder.kill();
}

#[test]
fn stopped_lock_holder_is_named_and_fix_does_nothing() {
    let lab = DoctorLab::new();
    let dead = lab.dead("dead");
    let holder = lab.stopped_holder(&lab.registry.dir().join(".lock"));
    let said = lab.doctor(&["--fix"]);
    assert_eq!(said.code, 1, "{}", said.text);
    let problem = &said.check("lock")["problem"];
    assert_eq!((&problem["code"], &problem["observed"]["pid"]), (&json!("lock_timeout"), &json!(holder.pid())));
    assert!(problem["observed"]["state"].as_str().unwrap().contains("stopped"), "{problem}");
    assert!(problem["next_steps"].to_string().contains(&format!("kill -CONT {}", holder.pid())), "{problem}");
    assert_eq!((&said.json["fixes"][0]["done"], dead.exists()), (&json!(false), true), "{}", said.text);
    holder.kill();
    assert_eq!(lab.doctor(&[]).check("lock")["level"], "ok");
}

#[test]
fn invalid_settings_are_reported() {
    let lab = DoctorLab::new();
    lab.plant("config.toml", b"[hub]\nprot = 1\n");
    let said = lab.doctor(&[]);
    assert_eq!(said.code, 1, "{}", said.text);
    assert!(said.check("settings")["seen"].as_str().unwrap().contains("hub.prot"), "{}", said.text);
    lab.plant("config.toml", b"[hub]\ntoken_required = false\n");
    let said = lab.doctor(&[]);
    assert_eq!((said.code, &said.check("token")["level"]), (0, &json!("warning")), "{}", said.text);
}

#[test]
fn pipe_in_place_of_a_file_does_not_block() {
    let lab = DoctorLab::new();
    for name in ["config.toml", "hub.json", "instances/a.json", "instances/.lock"] {
        let made = std::process::Command::new("mkfifo").arg(lab.home.root().join(name)).status().unwrap();
        assert!(made.success());
    }
    let said = lab.doctor(&["--fix", "--save", &lab.path("report").display().to_string()]);
    assert_eq!(said.code, 1, "the time limit ended it: {}", said.text);
    assert_eq!(said.checks("permissions").len(), 3, "{}", said.text);
}

#[test]
fn running_hub_is_asked_and_a_silent_one_is_named() {
    let lab = DoctorLab::new();
    let (hub, file) = lab.hub(&[]);
    let said = lab.doctor(&[]);
    assert_eq!(said.code, 0, "{}", said.text);
    for name in ["hub", "ports", "token"] {
        assert_eq!(said.check(name)["level"], "ok", "{}", said.text);
    }
    assert!(said.check("ports")["seen"].as_str().unwrap().contains(&file.port.to_string()), "{}", said.text);

    hub.signal(Signal::STOP);
    let said = lab.doctor(&[]);
    let problem = &said.check("hub")["problem"];
    assert_eq!((said.code, &problem["observed"]["pid"]), (1, &json!(hub.pid())), "{}", said.text);
    assert!(problem["next_steps"].to_string().contains("-CONT"), "{problem}");

    // A killed hub leaves its file behind, and the doctor starts no other one.
    hub.kill();
    let before = lab.files();
    let said = lab.doctor(&[]);
    assert_eq!((said.code, &said.check("hub")["level"]), (0, &json!("warning")), "{}", said.text);
    assert_eq!(lab.files(), before);
}

#[test]
fn hub_without_a_token_is_reported() {
    let lab = DoctorLab::new();
    let (_hub, _) = lab.hub(&[("LINCHPIN_HUB_TOKEN_REQUIRED", "false")]);
    let said = lab.doctor(&[]);
    assert_eq!((said.code, &said.check("token")["level"]), (0, &json!("warning")), "{}", said.text);
}

#[test]
fn doctor_output_contains_no_secret() {
    let lab = DoctorLab::new();
    let _shop = lab.live("shop");
    let (_hub, file) = lab.hub(&[]);
    // A broken record whose error shows its secret, one in quarantine, and the log of a careless program.
    let id = "00000000-0000-0000-0000-000000000009";
    lab.plant(
        &format!("instances/{id}.json"),
        b"{\"format\":\"planted-format-secret\",\"secret\":\"planted-format-secret\"}",
    );
    lab.plant(&format!("instances/quarantine/{id}.json"), b"{\"secret\":\"planted-quarantine-secret\",");
    let careless = format!(
        "bearer {} planted-shop-secret planted-quarantine-secret\nAPI_KEY=planted-env-secret\nkept line\n",
        file.token
    );
    lab.plant("logs/hub-error.log", careless.as_bytes());
    let report = lab.path("report.txt");
    std::fs::write(&report, "old").unwrap();
    set_mode(&report, 0o644);
    let save = report.display().to_string();
    let outputs = [
        lab.run(&["--save", &save]).text,
        std::fs::read_to_string(&report).unwrap(),
        lab.run(&["--save", "-"]).text,
        lab.doctor(&["--save", &save]).text,
        lab.run(&["--fix"]).text,
    ];
    for text in &outputs {
        assert!(!text.contains("planted-") && !text.contains(&file.token), "{text}");
        assert!(
            text.contains("expected u32") && text.contains("(in format)"),
            "the broken record is not reported, or its values are: {text}"
        );
    }
    for part in
        ["linchpin 0", "== doctor", "== hub", "\"instances\"", "== hub.log", "the hub serves", "kept line", "[removed]"]
    {
        assert!(outputs[1].contains(part) && outputs[2].contains(part), "{part} is not in\n{}", outputs[1]);
    }
    assert_eq!(mode(&report), 0o600);
    let json: Value = serde_json::from_str(&outputs[3]).unwrap();
    assert_eq!(json["worst"], "error");
}

#[test]
fn two_outputs_to_one_stream_are_refused() {
    let said = DoctorLab::new().doctor(&["--save", "-"]);
    assert_eq!((said.code, &said.json["code"]), (2, &json!("bad_request")), "{}", said.text);
}
