//! Clocks that the test moves, and what follows from them.

use super::*;
use parking_lot::Mutex;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::sleep;

struct Rig {
    network: Network,
    /// How long the machine has slept in all, and how long the hub has stood still.
    gone: Arc<Mutex<[Duration; 2]>>,
    asked: Arc<Mutex<Vec<&'static str>>>,
    interfaces: mpsc::Sender<()>,
}

/// A room whose clocks are the paused ones of the test, and what the test adds to them.
fn rig() -> Rig {
    let gone = Arc::new(Mutex::new([Duration::ZERO; 2]));
    let asked = Arc::new(Mutex::new(Vec::new()));
    let (start, moved, heard) = (tokio::time::Instant::now(), Arc::clone(&gone), Arc::clone(&asked));
    let clocks = move || {
        let [slept, stood] = *moved.lock();
        let monotonic = start.elapsed() + stood;
        Reading { boot: monotonic + slept, monotonic }
    };
    let (interfaces, told) = mpsc::channel(8);
    let ask = Arc::new(move |why| heard.lock().push(why));
    let network = Network::spawn(Interfaces::Told(told), clocks, ask, CancellationToken::new(), &TaskTracker::new());
    Rig { network, gone, asked, interfaces }
}

/// Faults 48 and 49: every wake asks every link once, and an hour awake asks nobody.
#[tokio::test(start_paused = true)]
async fn each_wake_asks_once_and_time_awake_asks_nobody() {
    let rig = rig();
    sleep(Duration::from_secs(3600)).await;
    assert!(rig.asked.lock().is_empty());
    for wake in 1..=200 {
        rig.gone.lock()[0] += Duration::from_secs(60);
        sleep(Duration::from_secs(1)).await;
        assert_eq!(*rig.asked.lock(), vec!["the machine slept"; wake]);
    }
    let facts = *rig.network.watch().borrow();
    assert_eq!((facts.absences, facts.changes), (200, 0));
    assert_eq!(facts.last_absence.unwrap().away.asleep, Duration::from_secs(60));
}

/// Fault 6: stopped for 1 s, 30 s and 10 min.
#[tokio::test(start_paused = true)]
async fn a_hub_that_stood_still_asks_all_links_first() {
    for seconds in [1, 30, 600] {
        let rig = rig();
        sleep(Duration::from_secs(5)).await;
        rig.gone.lock()[1] += Duration::from_secs(seconds);
        sleep(Duration::from_secs(1)).await;
        assert_eq!(*rig.asked.lock(), ["the hub was stopped or starved for a while"]);
        sleep(Duration::from_secs(60)).await;
        assert_eq!(rig.network.watch().borrow().absences, 1);
    }
}

/// Fault 41: a burst of changes asks once.
#[tokio::test(start_paused = true)]
async fn changed_interfaces_ask_all_links_once() {
    let rig = rig();
    for _ in 0..8 {
        rig.interfaces.send(()).await.unwrap();
    }
    sleep(Duration::from_secs(1)).await;
    assert_eq!(*rig.asked.lock(), ["interfaces or addresses changed"]);
    assert_eq!(rig.network.watch().borrow().changes, 1);
}
