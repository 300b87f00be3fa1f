use super::super::check::Level;
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

fn level(held: bool, file: Option<HubFile>, alive: bool, health: Option<Result<(u64, String), String>>) -> Level {
    let facts = Facts { held, holder: None, file, alive, health, guarded: Some(true) };
    let check = facts.checks(&Home::at("/nowhere"), &Settings::default()).remove(0);
    assert_eq!(check.level == Level::Ok, check.problem.is_none());
    assert!(check.problem.is_none_or(|problem| !problem.next_steps.is_empty()));
    check.level
}

#[test]
fn a_hub_is_whole_or_not_there() {
    let me = u64::from(std::process::id());
    let says = |pid, version: &str| Some(Ok((pid, version.to_owned())));
    assert_eq!(level(false, None, false, None), Level::Ok);
    assert_eq!(level(false, Some(file(true)), false, None), Level::Ok);
    assert_eq!(level(true, Some(file(false)), true, says(me, VERSION)), Level::Ok);
    assert_eq!(level(true, Some(file(false)), true, says(me, "0.0.1")), Level::Warning);
    assert_eq!(level(false, Some(file(false)), false, None), Level::Warning, "killed");
    assert_eq!(level(true, Some(file(false)), true, says(me + 1, VERSION)), Level::Error);
    assert_eq!(level(true, Some(file(false)), true, Some(Err("silence".to_owned()))), Level::Error);
    assert_eq!(level(false, Some(file(false)), true, None), Level::Error, "without its lease");
    assert_eq!(level(true, Some(file(false)), false, None), Level::Error, "another holds the lease");
    assert_eq!(level(true, None, false, None), Level::Error);
    assert_eq!(level(true, Some(file(true)), true, Some(Err("draining".to_owned()))), Level::Ok, "stopping");
}
