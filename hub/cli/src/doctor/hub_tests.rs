use super::super::check::Severity;
use super::*;

fn file(stopped: bool) -> HubFile {
    HubFile {
        format: 1,
        url: "http://127.0.0.1:1".to_owned(),
        port: 1,
        process: Identity::current().unwrap(),
        version: VERSION.to_owned(),
        token: "t".to_owned(),
        started_at: Timestamp::now(),
        stopped_at: stopped.then(Timestamp::now),
    }
}

fn severity(held: bool, file: Option<HubFile>, alive: bool, health: Option<Result<(u64, String), String>>) -> Severity {
    let findings = HubFindings { held, holder: None, file, alive, health, guarded: Some(true) };
    let check = findings.checks(&Home::at("/nowhere"), &Settings::default()).remove(0);
    assert_eq!(check.level == Severity::Ok, check.problem.is_none());
    assert!(check.problem.is_none_or(|problem| !problem.next_steps.is_empty()));
    check.level
}

#[test]
fn all_or_nothing_of_a_hub_exists() {
    let me = u64::from(std::process::id());
    let says = |pid, version: &str| Some(Ok((pid, version.to_owned())));
    assert_eq!(severity(false, None, false, None), Severity::Ok);
    assert_eq!(severity(false, Some(file(true)), false, None), Severity::Ok);
    assert_eq!(severity(true, Some(file(false)), true, says(me, VERSION)), Severity::Ok);
    assert_eq!(severity(true, Some(file(false)), true, says(me, "0.0.1")), Severity::Warning);
    assert_eq!(severity(false, Some(file(false)), false, None), Severity::Warning, "killed");
    assert_eq!(severity(true, Some(file(false)), true, says(me + 1, VERSION)), Severity::Error);
    assert_eq!(severity(true, Some(file(false)), true, Some(Err("silence".to_owned()))), Severity::Error);
    assert_eq!(severity(false, Some(file(false)), true, None), Severity::Error, "without its lease");
    assert_eq!(severity(true, Some(file(false)), false, None), Severity::Error, "another holds the lease");
    assert_eq!(severity(true, None, false, None), Severity::Error);
    assert_eq!(severity(true, Some(file(true)), true, Some(Err("draining".to_owned()))), Severity::Ok, "stopping");
}
