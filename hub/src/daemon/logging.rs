//! The hub's own log: `logs/hub.log` with everything, `logs/hub-error.log` with what a person must act on.
//!
//! Owns the subscriber. Levels: error = a person must act; warn = something was lost or degraded; info = a state that a
//! user recognises changed; debug = a decision and its reason; trace = traffic. `LINCHPIN_LOG` sets the level of the file
//! (`debug`, or `linchpin_hub::link=trace`). A full disk costs lines, and the log says how many.
//! Never: logs a token, a secret or a message's content.

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

/// The variable that sets the level.
const LEVEL_VAR: &str = "LINCHPIN_LOG";

/// Starts logging, once in the life of a process.
///
/// # Errors
/// When a log file cannot be opened.
pub(super) fn start(home: &Home, settings: &settings::LogSettings, foreground: bool) -> Result<(), Problem> {
    let open = |name: &str| {
        let path = home.logs().join(name);
        let file = logfile::Writer::open(&path, settings.max_bytes, settings.keep)
            .map_err(|error| cannot_write(&error, format!("cannot open {}", path.display()), &path))?;
        Ok::<_, Problem>(Shared(Arc::new(Mutex::new(Lossy::new(file)))))
    };
    let level = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).with_env_var(LEVEL_VAR);
    let all = fmt::layer().with_ansi(false).with_writer(open("hub.log")?).with_filter(level.from_env_lossy());
    let errors = fmt::layer().with_ansi(false).with_writer(open("hub-error.log")?).with_filter(LevelFilter::ERROR);
    let screen =
        foreground.then(|| fmt::layer().with_writer(io::stderr).with_target(false).with_filter(LevelFilter::INFO));
    // A second subscriber in one process (a test) is refused, and the first one goes on.
    let _ = tracing_subscriber::registry().with(all).with(errors).with(screen).try_init();
    Ok(())
}

/// One log file for all threads.
#[derive(Clone)]
struct Shared(Arc<Mutex<Lossy>>);

impl io::Write for Shared {
    /// One event, whole. A disk that does not take it costs this line, and nobody waits for it.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // The first that is lost cannot be told here, in the midst of telling.
        let _ = self.0.lock().write(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Shared {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}
