//! The checks `watch`, `ports` and `clock`: what the machine provides.
//!
//! Each judgement is a pure function of what was observed. No port is connected to, and no watch is created.

use super::check::Check;
use super::hub;
use jiff::{SignedDuration, Timestamp};
use linchpin_shared::home::Home;
use linchpin_shared::hub_file::HubFile;
use linchpin_shared::port::Culprit;
use linchpin_shared::problem::{Code, Problem};
use linchpin_shared::registry::Registry;
use linchpin_shared::settings::Settings;
use std::fs;
use std::os::unix::fs::MetadataExt;

/// This program was written in 2026, so an earlier time means that the clock was never set.
const WRITTEN: &str = "2026-01-01T00:00:00Z";

/// How far apart two readings of one clock may be. File systems round, and an NFS server has its own clock.
const TOLERANCE: SignedDuration = SignedDuration::from_secs(60);

/// A limit, and how much of it is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct LimitUsage {
    used: u64,
    limit: u64,
}

/// Runs all checks of this file.
pub(super) fn checks(home: &Home, settings: &Settings, hub: &hub::HubFindings) -> Vec<Check> {
    vec![watch(), ports(home, settings.hub.port, hub), clock(home, hub.file.as_ref())]
}

fn watch() -> Check {
    let limit = |name: &str| fs::read_to_string(format!("/proc/sys/fs/inotify/{name}")).ok()?.trim().parse().ok();
    let (Some(instances), Some(watches)) = (limit("max_user_instances"), limit("max_user_watches")) else {
        return Check::ok(
            "watch",
            "this system does not show its limits for file watches; the registry is polled in any case",
        );
    };
    let (used_instances, used_watches) = in_use();
    judge_watch(
        LimitUsage { used: used_instances, limit: instances },
        LimitUsage { used: used_watches, limit: watches },
    )
}

/// Counts the inotify instances and watches of the processes of this user, as far as they can be seen.
fn in_use() -> (u64, u64) {
    let us = rustix::process::geteuid().as_raw();
    let (mut instances, mut watches) = (0, 0);
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let is_pid = process.file_name().to_str().is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
        if !is_pid || !process.metadata().is_ok_and(|facts| facts.uid() == us) {
            continue;
        }
        for file in fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten() {
            if fs::read_link(file.path()).is_ok_and(|target| target.as_os_str() == "anon_inode:inotify") {
                instances += 1;
                let info = fs::read_to_string(process.path().join("fdinfo").join(file.file_name())).unwrap_or_default();
                watches += info.lines().filter(|line| line.starts_with("inotify ")).count() as u64;
            }
        }
    }
    (instances, watches)
}

fn judge_watch(instances: LimitUsage, watches: LimitUsage) -> Check {
    let near = |usage: LimitUsage| usage.used.saturating_mul(10) >= usage.limit.saturating_mul(9);
    let seen = format!(
        "{} of {} inotify instances and {} of {} watches are in use",
        instances.used, instances.limit, watches.used, watches.limit
    );
    let mut problem = Problem::new(Code::LimitReached, format!("{seen}; if none is left, the registry is only polled"));
    for (usage, name) in [(instances, "max_user_instances"), (watches, "max_user_watches")] {
        if near(usage) {
            problem = problem.next(format!("sudo sysctl fs.inotify.{name}={}", usage.limit.saturating_mul(4).max(512)));
        }
    }
    if problem.next_steps.is_empty() { Check::ok("watch", seen) } else { Check::warning("watch", problem) }
}

/// The hub's port must belong to the hub. If there is no hub, the port that the next one prefers must be free.
fn ports(home: &Home, preferred: u16, hub: &hub::HubFindings) -> Check {
    if hub.is_stopping() {
        return Check::ok("ports", "the hub is stopping");
    }
    let before = hub.file.as_ref().map(|file| file.port);
    let running = hub.file.as_ref().filter(|_| hub.runs());
    let port = running.map_or_else(|| linchpin_hub::preferred_port(preferred, before), |file| file.port);
    if port == 0 {
        return Check::ok("ports", "the system chooses the hub's port");
    }
    let hub = running.map(|file| file.process.pid);
    match Culprit::find(home, port) {
        Ok(culprit) => judge_port(port, hub, culprit.as_ref()),
        Err(error) => {
            let problem = Problem::from_io(&error, Code::PortTaken, "cannot determine which process listens");
            Check::warning("ports", problem.next(format!("ss -ltnp 'sport = :{port}'")))
        }
    }
}

fn judge_port(port: u16, hub: Option<u32>, culprit: Option<&Culprit>) -> Check {
    let pid = culprit.and_then(|culprit| culprit.holder.process.as_ref()).map(|process| process.pid);
    let problem = |detail: String| Problem::new(Code::PortTaken, detail).seen("port", port);
    match (hub, culprit) {
        (None, None) => Check::ok("ports", format!("port {port} is free for the next hub")),
        (Some(hub), Some(_)) if pid == Some(hub) => {
            Check::ok("ports", format!("port {port} belongs to the hub (pid {hub})"))
        }
        (Some(hub), None) => Check::error(
            "ports",
            problem(format!("no process listens on port {port}, which is the port of the hub (pid {hub})"))
                .next("linchpin hub stop")
                .next("linchpin status    (starts it again)"),
        ),
        (Some(hub), Some(culprit)) => Check::error(
            "ports",
            culprit
                .named_in(problem(format!(
                    "port {port} is the port of the hub (pid {hub}), but another process listens there"
                )))
                .next("linchpin hub stop; linchpin status"),
        ),
        (None, Some(culprit)) => Check::warning(
            "ports",
            culprit
                .named_in(problem(format!(
                    "port {port} is taken; the next hub will take another port, but agents that use HTTP expect it here"
                )))
                .next("set hub.port to another port, and configure it in your agents"),
        ),
    }
}

fn clock(home: &Home, file: Option<&HubFile>) -> Check {
    let entries = Registry::new(home).scan().map_or_else(|_| Vec::new(), |scan| scan.entries);
    let records =
        entries.into_iter().map(|entry| (format!("record of {}", entry.record.name), entry.record.registered_at));
    let hub = file.iter().map(|file| ("start of the hub".to_owned(), file.started_at)).collect::<Vec<_>>();
    let logs = ["hub.log", "hub-error.log"].into_iter().filter_map(|name| {
        let written = fs::metadata(home.logs().join(name)).ok()?.modified().ok()?;
        Some((format!("last line of {name}"), Timestamp::try_from(written).ok()?))
    });
    judge_clock(Timestamp::now(), records.chain(hub).chain(logs).max_by_key(|(_, at)| *at))
}

fn judge_clock(now: Timestamp, newest: Option<(String, Timestamp)>) -> Check {
    let problem = |detail: String| {
        Problem::new(Code::BadClock, detail)
            .seen("now", now.to_string())
            .next("date; timedatectl    (shows whether the clock is set and synchronized)")
            .next("sudo timedatectl set-ntp true")
    };
    if WRITTEN.parse().is_ok_and(|written: Timestamp| now < written) {
        return Check::error(
            "clock",
            problem(format!("the clock shows {now}, which is before this program was written")),
        );
    }
    match newest {
        Some((what, at)) if at.duration_since(now) > TOLERANCE => {
            let detail = format!("the {what} is in the future ({at}), so the clock was set back");
            Check::warning("clock", problem(detail).seen("newest", at.to_string()))
        }
        Some(_) | None => Check::ok("clock", format!("{now:.0}, which is later than everything that was written")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::Severity;
    use super::*;
    use linchpin_shared::port::{Holder, Whose};
    use linchpin_shared::process::Identity;

    #[test]
    fn limits_are_reported_before_they_are_reached() {
        let check = |used, limit| judge_watch(LimitUsage { used, limit }, LimitUsage { used: 1, limit: 1000 });
        assert_eq!(
            [check(89, 100).level, check(90, 100).level, check(0, 0).level],
            [Severity::Ok, Severity::Warning, Severity::Warning]
        );
        assert_eq!(check(100, 100).problem.unwrap().next_steps, ["sudo sysctl fs.inotify.max_user_instances=512"]);
    }

    #[test]
    fn a_watch_of_this_process_is_counted() {
        let before = in_use();
        let watch = rustix::fs::inotify::init(rustix::fs::inotify::CreateFlags::CLOEXEC).unwrap();
        rustix::fs::inotify::add_watch(&watch, "/", rustix::fs::inotify::WatchFlags::CREATE).unwrap();
        // Other processes of this user come and go, but this one is certainly counted.
        let (instances, watches) = in_use();
        assert!(instances >= 1 && watches >= 1, "{before:?}");
    }

    #[test]
    fn the_hubs_port_belongs_to_the_hub() {
        let me = Identity::current().unwrap();
        let seen = |process| Culprit { holder: Holder { uid: 1, process, command: None }, whose: Whose::Stranger };
        let culprit = seen(Some(me.clone()));
        let level = |hub, culprit| judge_port(7777, hub, culprit).level;
        assert_eq!(level(None, None), Severity::Ok);
        assert_eq!(level(Some(me.pid), Some(&culprit)), Severity::Ok);
        assert_eq!(level(Some(me.pid + 1), Some(&culprit)), Severity::Error);
        assert_eq!(level(Some(me.pid), None), Severity::Error);
        assert_eq!(level(None, Some(&culprit)), Severity::Warning);
        let unseen = seen(None);
        assert_eq!(judge_port(7777, None, Some(&unseen)).problem.unwrap().observed["held by user"], 1);
    }

    #[test]
    fn a_clock_that_was_set_back_is_reported() {
        let now: Timestamp = "2026-11-20T10:00:00Z".parse().unwrap();
        let level = |seconds| judge_clock(now, Some(("x".to_owned(), now + SignedDuration::from_secs(seconds)))).level;
        assert_eq!([level(-9), level(60), level(61)], [Severity::Ok, Severity::Ok, Severity::Warning]);
        assert_eq!(judge_clock("1970-01-02T00:00:00Z".parse().unwrap(), None).level, Severity::Error);
    }
}
