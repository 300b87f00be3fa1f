//! The log of the hub: `logs/hub.log` has everything, and `logs/hub-error.log` what a person must act on.
//!
//! Levels: error means that a person must act; warn, that something was lost or degraded; info, that a state changed
//! that a user recognises; debug is a decision and its reason; trace is traffic. `LINCHPIN_LOG` sets the level of
//! `hub.log` (`debug`, or `linchpin_hub::link=trace`). If the disk is full, lines are lost, and the log says how many.
//! Tokens, secrets and the content of messages are never logged.

use linchpin_shared::home::Home;
use linchpin_shared::logfile::{self, Lossy};
use linchpin_shared::problem::Problem;
use linchpin_shared::settings;
use linchpin_shared::space::cannot_write;
use parking_lot::Mutex;
use std::io;
use std::sync::Arc;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

/// The environment variable that sets the level.
const LEVEL_VAR: &str = "LINCHPIN_LOG";

/// Installs the subscriber, once in a process.
///
/// # Errors
/// If a log file cannot be opened.
pub(super) fn start(home: &Home, settings: &settings::LogSettings, foreground: bool) -> Result<(), Problem> {
    let open = |name: &str| {
        let path = home.logs().join(name);
        let file = logfile::Writer::open(&path, settings.max_bytes, settings.keep)
            .map_err(|error| cannot_write(&error, format!("cannot open {}", path.display()), &path))?;
        Ok::<_, Problem>(SharedLog(Arc::new(Mutex::new(Lossy::new(file)))))
    };
    let level = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).with_env_var(LEVEL_VAR);
    let all = fmt::layer().with_ansi(false).with_writer(open("hub.log")?).with_filter(level.from_env_lossy());
    let errors = fmt::layer().with_ansi(false).with_writer(open("hub-error.log")?).with_filter(LevelFilter::ERROR);
    let screen =
        foreground.then(|| fmt::layer().with_writer(io::stderr).with_target(false).with_filter(LevelFilter::INFO));
    // A second subscriber in one process (in a test) is refused, and the first one stays.
    let _ = tracing_subscriber::registry().with(all).with(errors).with(screen).try_init();
    Ok(())
}

/// A log file that all threads share.
#[derive(Clone)]
struct SharedLog(Arc<Mutex<Lossy>>);

impl io::Write for SharedLog {
    /// Writes one whole event. If the disk is full, this line is lost, and nothing waits for it.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // The first lost line cannot be logged here, because this is the log.
        let _ = self.0.lock().write(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for SharedLog {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}
