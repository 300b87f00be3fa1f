//! Problems that a person may meet, caused for real and read as text and as JSON.

use super::lab::{DoctorLab, said, set_mode};
use linchpin_shared::process::Identity;
use serde_json::{Value, json};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

/// A child that ends with its owner.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The expected problem: its code, its observations, and the exit code.
struct Expected<'a> {
    code: &'a str,
    observed: &'a [&'a str],
    exit: i32,
}

/// Causes the problem twice, and compares its JSON with its text.
fn meets(mut verb: impl FnMut(&[&str]) -> Command, expected: &Expected<'_>) -> Value {
    let json = said(&mut verb(&["--json"]));
    let problem = json.json.clone();
    assert_eq!((json.code, problem["code"].as_str()), (expected.exit, Some(expected.code)), "{}", json.text);
    assert_eq!(problem["type"], format!("urn:linchpin:problem:{}", expected.code));
    let steps: Vec<&str> =
        problem["next_steps"].as_array().unwrap().iter().map(|step| step.as_str().unwrap()).collect();
    assert!(!steps.is_empty(), "no next step in {problem:#}");
    let text = said(&mut verb(&[]));
    assert_eq!(text.code, expected.exit, "{}", text.text);
    assert!(text.text.contains(problem["title"].as_str().unwrap()), "{}", text.text);
    for what in expected.observed {
        assert!(!problem["observed"][what].is_null(), "{what} was not observed: {problem:#}");
        assert!(text.text.contains(&format!("  {what}: ")), "{what} is not reported: {}", text.text);
    }
    for number in 1..=steps.len() {
        assert!(text.text.contains(&format!("\n  {number}. ")), "no step {number}: {}", text.text);
    }
    problem
}

#[test]
fn problem_of_a_second_hub() {
    let lab = DoctorLab::new();
    let (hub, file) = lab.hub(&[]);
    let other = file.port.checked_add(1).unwrap().to_string();
    let expected = Expected { code: "hub_running", observed: &["home", "url", "pid", "since"], exit: 4 };
    let problem = meets(|json| lab.linchpin(&[json, &["hub", "--port", &other]].concat()), &expected);
    assert_eq!(problem["observed"]["pid"], hub.pid());
}

#[test]
fn problem_of_a_taken_port() {
    let lab = DoctorLab::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let expected = Expected { code: "port_taken", observed: &["port", "pid", "command", "errno"], exit: 4 };
    let problem = meets(|json| lab.linchpin(&[json, &["hub", "--port", &port.to_string()]].concat()), &expected);
    assert_eq!((&problem["observed"]["port"], &problem["observed"]["pid"]), (&json!(port), &json!(std::process::id())));
}

#[test]
fn problem_of_a_held_lock() {
    let lab = DoctorLab::new();
    let holder = lab.stopped_holder(&lab.registry.dir().join(".lock"));
    let expected = Expected { code: "lock_timeout", observed: &["path", "pid", "command"], exit: 6 };
    let run = ["--no-autostart", "run", "--name", "x", "--", "true"];
    let problem = meets(|json| lab.linchpin(&[json, &run].concat()), &expected);
    assert_eq!(problem["observed"]["pid"], holder.pid());
    assert!(problem["next_steps"].to_string().contains(&format!("kill -CONT {}", holder.pid())), "{problem:#}");
    holder.kill();
}

#[test]
fn problem_of_a_missing_permission() {
    let lab = DoctorLab::new();
    // A process of another user: as root one that is started for that user, else the init process.
    let root = rustix::process::geteuid().is_root();
    let other = root.then(|| Ended(Command::new("sleep").arg("600").uid(12345).spawn().unwrap()));
    let pid = other.as_ref().map_or(1, |other| other.0.id()).to_string();
    let register = ["--no-autostart", "register", "--name", "x", "--pid", &pid, "--url", "http://127.0.0.1:1"];
    let expected = Expected { code: "permission_denied", observed: &["pid", "command", "owner", "we are"], exit: 1 };
    meets(|json| lab.linchpin(&[json, &register].concat()), &expected);
}

#[test]
fn problem_of_a_full_disk() {
    let lab = DoctorLab::new();
    // A small, full file system over the home, in a mount namespace of the verb.
    let script = "mount -t tmpfs -o size=64k,mode=700 none \"$LINCHPIN_HOME\" || exit 77; dd if=/dev/zero \
                  of=\"$LINCHPIN_HOME/full\" bs=1k 2>/dev/null; exec \"$@\"";
    let full = |json: &[&str]| {
        let run_by = ["unshare", "--user", "--map-root-user", "--mount", "--", "sh", "-c", script, "sh", "timeout"];
        lab.bounded(&run_by, &[json, &["--no-autostart", "run", "--name", "x", "--", "true"]].concat())
    };
    let can = said(&mut full(&[]));
    assert!(can.code != 77 && !can.text.contains("unshare:"), "this test needs mount namespaces: {}", can.text);
    meets(full, &Expected { code: "no_space", observed: &["path"], exit: 1 });
}

#[test]
fn problems_of_invalid_settings_names_and_commands() {
    let lab = DoctorLab::new();
    let verb = |words: &'static [&'static str]| {
        let lab = &lab;
        move |json: &[&str]| lab.linchpin(&[json, words].concat())
    };
    meets(verb(&["run", "--name", "Not A Name", "--", "true"]), &Expected { code: "bad_name", observed: &[], exit: 2 });
    let missing = &["--no-autostart", "run", "--name", "x", "--", "no-such-program"];
    meets(verb(missing), &Expected { code: "command_not_found", observed: &[], exit: 1 });
    let none = &["--no-autostart", "status"];
    meets(verb(none), &Expected { code: "hub_unreachable", observed: &["home"], exit: 5 });
    lab.plant("config.toml", b"[link]\ndial_timeout_ms = 0\n");
    let expected = Expected { code: "bad_settings", observed: &["key", "value", "from"], exit: 2 };
    meets(verb(&["config", "show"]), &expected);
    lab.plant("config.toml", b"[hub]\nport = = 1\n");
    meets(verb(&["status"]), &Expected { code: "bad_settings", observed: &["path"], exit: 2 });
}

#[test]
fn problems_of_leftovers_and_unreadable_records() {
    let lab = DoctorLab::new();
    let (ended, id) = (lab.dead("dead"), "00000000-0000-0000-0000-000000000009");
    let broken = lab.plant(&format!("instances/{id}.json"), b"{\"format\":1,");
    let me = Identity::current().unwrap();
    let left = lab.plant(&format!("instances/.new-{}-{}-abc", me.pid, me.start_ticks + 1), b"x");
    let before = lab.files();
    let doctor = lab.doctor(&[]);
    let text = lab.run(&[]);
    assert_eq!((doctor.code, text.code, lab.files()), (1, 1, before), "looking changes nothing: {}", doctor.text);
    let shown = broken.display().to_string();
    for (problem, code, observed) in [
        (&doctor.record("dead")["problem"], "stale", ["pid", "since", "project", "record"]),
        (&doctor.record(&shown)["problem"], "bad_record", ["path"; 4]),
        (&doctor.check("leftovers")["problem"], "stale", ["path"; 4]),
    ] {
        assert_eq!(problem["code"], code, "{problem:#}");
        for what in observed {
            assert!(!problem["observed"][what].is_null(), "{what}: {problem:#}");
        }
        let steps = problem["next_steps"].as_array().unwrap();
        assert!(
            !steps.is_empty() && text.text.contains(&format!("1. {}", steps[0].as_str().unwrap())),
            "{}",
            text.text
        );
    }
    assert!(ended.exists() && left.exists());
}

/// Fault 66: other users could replace the home.
#[test]
fn parent_writable_by_others_is_reported() {
    let lab = DoctorLab::new();
    let parent = lab.home.root().parent().unwrap().to_owned();
    set_mode(&parent, 0o777);
    let told = lab.doctor(&[]);
    assert_eq!(told.check("parents")["level"], "warning", "{}", told.text);
    assert!(told.check("parents")["seen"].as_str().unwrap().contains(&*parent.to_string_lossy()), "{}", told.text);
    set_mode(&parent, 0o1777);
    assert_eq!(lab.doctor(&[]).check("parents")["level"], "ok");
}
