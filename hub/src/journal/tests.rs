//! The journal on a real file system.

use super::*;
use jiff::Timestamp;
use linchpin_shared::home::Home;
use rusqlite::Connection;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tokio::time::Instant;

fn session(id: &str) -> SavedSession {
    let uri = SavedSubscription {
        instance: "i".into(),
        server: "s".into(),
        project: "/p".into(),
        session_kind: "shared".into(),
        uri: "x://\"".into(),
    };
    SavedSession {
        id: id.to_owned(),
        scope: String::from("/mcp"),
        version: String::from("2025-11-25"),
        initialize: Some(String::from("{}")),
        level: Some(String::from("error")),
        tasks: vec![SavedTask { number: 3, of: uri.clone() }],
        subscriptions: vec![uri],
        fetched: [Some(u64::MAX), None, Some(0)],
        used_at: Timestamp::from_millisecond(Timestamp::now().as_millisecond()).unwrap(),
    }
}

fn event(kind: &str) -> JournalEvent {
    JournalEvent {
        at: Timestamp::now(),
        topic: String::from("t"),
        kind: String::from(kind),
        data: serde_json::json!({}),
    }
}

fn home() -> (tempfile::TempDir, Home) {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::at(dir.path().join("home"));
    home.prepare().unwrap();
    (dir, home)
}

/// Opens the journal and returns its content.
async fn opened(home: &Home) -> (Journal, Recall) {
    let journal = Journal::start(home).await;
    let mut status = journal.status();
    status.wait_for(|status| status.opened > 0).await.unwrap();
    let recall = journal.recall().unwrap();
    (journal, recall)
}

async fn keep(journal: &Journal, id: &str) -> Result<(), NotWritten> {
    journal.commit(vec![JournalChange::Session(session(id))]).await
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

fn kinds(home: &Home) -> Vec<String> {
    let connection = Connection::open(path(home)).unwrap();
    let mut query = connection.prepare("SELECT kind FROM events ORDER BY seq").unwrap();
    query.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

/// Repeats `look` until it succeeds.
async fn until(mut look: impl FnMut() -> Result<(), String>) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match look() {
            Ok(()) => return,
            Err(seen) => assert!(Instant::now() < deadline, "{seen}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn saved_sessions_are_recalled_and_ended_ones_are_not() {
    let (_dir, home) = home();
    let (journal, _) = opened(&home).await;
    let list = SavedList {
        instance: "i".into(),
        server: "s".into(),
        session_kind: "00".into(),
        kind: "tools".into(),
        items: "[]".into(),
    };
    let (a, b) = (session("a"), session("b"));
    journal
        .commit(vec![JournalChange::Session(a.clone()), JournalChange::Session(b), JournalChange::List(list.clone())])
        .await
        .unwrap();
    journal.commit(vec![JournalChange::SessionEnded(String::from("b"))]).await.unwrap();
    let (_, recall) = opened(&home).await;
    assert_eq!((recall.sessions, recall.lists), (vec![a], vec![list]));
    let wal = home.root().join("journal.db-wal");
    assert_eq!((mode(&path(&home)), mode(&wal)), (0o600, 0o600));
}

/// A journal with the first schema has no tasks.
#[tokio::test]
async fn a_journal_of_an_earlier_version_is_migrated() {
    let (_dir, home) = home();
    let (journal, _) = opened(&home).await;
    keep(&journal, "a").await.unwrap();
    journal.close().await;
    let earlier = "ALTER TABLE sessions DROP COLUMN tasks; PRAGMA user_version = 1";
    Connection::open(path(&home)).unwrap().execute_batch(earlier).unwrap();
    let (journal, recall) = opened(&home).await;
    let kept: Vec<_> = recall.sessions.iter().map(|session| (session.id.as_str(), session.tasks.len())).collect();
    assert_eq!((kept, journal.status().borrow().corrupt.is_none()), (vec![("a", 0)], true));
    keep(&journal, "b").await.unwrap();
}

#[tokio::test]
async fn a_closed_journal_is_one_file() {
    let (_dir, home) = home();
    let (journal, _) = opened(&home).await;
    let other = journal.clone();
    keep(&journal, "a").await.unwrap();
    assert!(home.root().join("journal.db-wal").exists());
    for number in 0..QUEUE {
        journal.note(event(&number.to_string()));
    }
    journal.close().await;
    for beside in ["journal.db-wal", "journal.db-shm"] {
        assert!(!home.root().join(beside).exists(), "{beside} is still there");
    }
    assert_eq!(keep(&other, "b").await, Err(NotWritten));
    assert_eq!(kinds(&home).len(), QUEUE);
    let (_, recall) = opened(&home).await;
    assert_eq!(recall.sessions.iter().map(|session| session.id.as_str()).collect::<Vec<_>>(), ["a"]);
}

async fn is_put_aside(home: &Home, damage: impl FnOnce(&Path)) -> Problem {
    let (journal, _) = opened(home).await;
    let many: Vec<_> = (0..500).map(|n| JournalChange::Session(session(&n.to_string()))).collect();
    journal.commit(many).await.unwrap();
    drop(journal);
    // The thread ends when the last handle is dropped, and its connection moves the write-ahead log into the file.
    until(|| (!home.root().join("journal.db-wal").exists()).then_some(()).ok_or_else(|| "still open".into())).await;
    damage(&path(home));
    let bytes = std::fs::read(path(home)).unwrap();
    let (journal, recall) = opened(home).await;
    let status = journal.status().borrow().clone();
    let problem = status.corrupt.unwrap();
    assert_eq!((status.problem, recall.sessions.len()), (None, 0));
    keep(&journal, "new").await.unwrap();
    let aside = corrupt_files(home);
    assert_eq!(problem.observed["kept_as"], aside[0].display().to_string());
    assert!(std::fs::read(&aside[0]).unwrap() == bytes, "it was changed: {problem:?}");
    problem
}

/// Fault 30.
#[tokio::test]
async fn a_broken_journal_is_put_aside() {
    let damages: [fn(&Path); 5] = [
        |path| std::fs::write(path, "this is no database, and long enough to be taken for one".repeat(100)).unwrap(),
        |path| std::fs::File::options().write(true).open(path).unwrap().set_len(9000).unwrap(),
        |path| {
            let mut bytes = std::fs::read(path).unwrap();
            bytes[4096..].fill(0x55);
            std::fs::write(path, bytes).unwrap();
        },
        |path| Connection::open(path).unwrap().execute_batch("DROP TABLE sessions").unwrap(),
        |path| Connection::open(path).unwrap().execute_batch("PRAGMA application_id = 7").unwrap(),
    ];
    for damage in damages {
        let (_dir, home) = home();
        let problem = is_put_aside(&home, damage).await;
        assert!(corrupt_files(&home)[0].to_string_lossy().contains("journal.broken-"), "{problem:?}");
    }
}

/// Fault 30.
#[tokio::test]
async fn a_journal_of_a_later_version_is_put_aside_unchanged() {
    let (_dir, home) = home();
    let newer = |path: &Path| Connection::open(path).unwrap().execute_batch("PRAGMA user_version = 99").unwrap();
    let problem = is_put_aside(&home, newer).await;
    assert!(corrupt_files(&home)[0].to_string_lossy().contains("journal.form-99-"), "{problem:?}");
    assert!(problem.next_steps[0].contains("mv "), "{problem:?}");
}

/// Fault 31.
#[tokio::test]
async fn a_lock_of_another_process_leaves_a_marked_gap() {
    let (_dir, home) = home();
    let (journal, _) = opened(&home).await;
    keep(&journal, "before").await.unwrap();
    let other = Connection::open(path(&home)).unwrap();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    journal.note(event("lost"));
    assert_eq!(keep(&journal, "locked out").await, Err(NotWritten));
    let problem = journal.status().borrow().problem.clone().unwrap();
    assert_eq!(problem.code, Code::LockTimeout);
    other.execute_batch("ROLLBACK").unwrap();
    keep(&journal, "after").await.unwrap();
    journal.note(event("kept"));
    journal.clone().close().await;
    assert_eq!(kinds(&home), ["gap", "kept"]);
    assert_eq!((journal.status().borrow().missed, journal.status().borrow().problem.clone()), (1, None));
}

/// Fault 31.
#[tokio::test]
async fn a_journal_that_is_locked_at_the_start_is_opened_later() {
    let (_dir, home) = home();
    let (journal, _) = opened(&home).await;
    keep(&journal, "a").await.unwrap();
    journal.close().await;
    let other = Connection::open(path(&home)).unwrap();
    other.execute_batch("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE; DELETE FROM events; COMMIT").unwrap();
    let journal = Journal::start(&home).await;
    assert!(journal.recall().is_none());
    assert_eq!(keep(&journal, "b").await, Err(NotWritten));
    drop(other);
    journal.status().wait_for(|status| status.opened > 0).await.unwrap();
    assert_eq!(journal.recall().unwrap().sessions[0].id, "a");
}

#[tokio::test]
async fn a_journal_that_is_removed_is_created_again() {
    let (_dir, home) = home();
    let (journal, _) = opened(&home).await;
    keep(&journal, "a").await.unwrap();
    std::fs::remove_file(path(&home)).unwrap();
    let mut status = journal.status();
    status.wait_for(|status| status.opened == 2).await.unwrap();
    keep(&journal, "b").await.unwrap();
    let (_, recall) = opened(&home).await;
    assert_eq!(recall.sessions[0].id, "b");
}

#[tokio::test]
async fn an_event_that_finds_the_queue_full_is_counted() {
    let (_dir, home) = home();
    let (journal, _) = opened(&home).await;
    let other = Connection::open(path(&home)).unwrap();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    for _ in 0..5 * QUEUE {
        journal.note(event("many"));
    }
    other.execute_batch("ROLLBACK").unwrap();
    let mut handed_in = 5 * QUEUE;
    until(|| {
        handed_in += 1;
        if keep_now(&journal) { Ok(()) } else { Err(String::from("full")) }
    })
    .await;
    journal.clone().close().await;
    let kinds = kinds(&home);
    let written = kinds.iter().filter(|kind| *kind == "many").count();
    assert_eq!(u64::try_from(handed_in - written).unwrap(), journal.status().borrow().missed);
    assert!(kinds.iter().any(|kind| kind == "gap"), "{written}");
}

fn keep_now(journal: &Journal) -> bool {
    let before = journal.missed.load(Ordering::Relaxed);
    journal.note(event("many"));
    journal.missed.load(Ordering::Relaxed) == before
}
