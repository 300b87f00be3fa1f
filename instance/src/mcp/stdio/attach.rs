//! The supervisor's side of a stdio server: each run of the process gets a session.

use super::endpoint::StdioEndpoint;
use super::server_run::{ServerRun, StdioSession};
use crate::mcp::ServerName;
use crate::supervisor::Process;
use crate::supervisor::output::Log;
use crate::supervisor::spec::{AttachStdio, AttachedStdio};
use crate::vitals_publisher::ServerVitalsPublisher;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use tokio::sync::watch;

/// Attaches an MCP session to each run of a process.
#[derive(Debug)]
pub(crate) struct StdioAttachment {
    current: watch::Sender<Option<Arc<ServerRun>>>,
    vitals: ServerVitalsPublisher,
    max_line: usize,
}

/// The runs of the server, for its endpoint.
#[derive(Debug)]
pub(crate) struct ServerRuns {
    name: ServerName,
    current: watch::Receiver<Option<Arc<ServerRun>>>,
}

impl StdioAttachment {
    /// For a server that has not started yet. It may write lines of at most `max_line` bytes.
    pub(crate) fn new(vitals: ServerVitalsPublisher, max_line: usize) -> Self {
        vitals.publish(false, 0);
        Self { current: watch::Sender::new(None), vitals, max_line }
    }

    /// Subscribes to the runs, before the supervisor takes the attachment.
    pub(crate) fn runs(&self, name: ServerName) -> ServerRuns {
        ServerRuns { name, current: self.current.subscribe() }
    }
}

impl ServerRuns {
    /// Creates the endpoint of the server that `process` runs. It accepts messages of at most `max_message` bytes.
    pub(crate) fn endpoint(self, process: Process, max_message: usize) -> StdioEndpoint {
        StdioEndpoint::new(self.name, self.current, process, max_message)
    }
}

impl AttachStdio for StdioAttachment {
    fn attach(&self, run: u64, stdin: OwnedFd, stdout: OwnedFd, log: Log) -> io::Result<Box<dyn AttachedStdio>> {
        let session = StdioSession::start(run, stdin, stdout, self.max_line, log)?;
        self.current.send_replace(Some(Arc::clone(&session.run)));
        self.vitals.publish(true, run);
        Ok(Box::new(Attached { session, current: self.current.clone(), vitals: self.vitals.clone() }))
    }
}

/// The session of the current run.
struct Attached {
    session: StdioSession,
    current: watch::Sender<Option<Arc<ServerRun>>>,
    vitals: ServerVitalsPublisher,
}

impl AttachedStdio for Attached {
    fn broken(&mut self) -> BoxFuture<'_, &'static str> {
        self.session.broken().boxed()
    }

    fn detach(self: Box<Self>, reason: String) -> BoxFuture<'static, ()> {
        async move {
            let Self { session, current, vitals } = *self;
            let run = session.run.number;
            current.send_replace(None);
            session.end(reason).await;
            vitals.publish(false, run);
        }
        .boxed()
    }
}
