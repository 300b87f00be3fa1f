//! How a plan becomes a supervised process and the endpoint of its MCP server.

use super::options::{MAIN, Offer, Plan, PortChoice};
use crate::env;
use crate::lifecycle::Description;
use crate::owner_mark::InstanceRun;
use crate::server::state::McpEndpoint;
use crate::supervisor::assigned_port::AssignedPort;
use crate::supervisor::child::Program;
use crate::supervisor::output::{Log, Terminal};
use crate::supervisor::reaper::Reaper;
use crate::supervisor::restart_policy::OnSuccess;
use crate::supervisor::{Process, Spec, SupervisorContext, Wiring};
use crate::vitals_publisher::VitalsPublisher;
use linchpin_shared::backoff;
use linchpin_shared::home::{Home, private_dir};
use linchpin_shared::logfile;
use linchpin_shared::problem::{Code, Problem};
use linchpin_shared::registry::record::Record;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a plan was wired to.
pub(super) struct Wired {
    /// The process, if there is a command.
    pub(super) process: Option<Process>,
    /// The endpoint of its MCP server, if it is one.
    pub(super) server: Option<Box<dyn McpEndpoint>>,
}

/// Returns what the instance states about itself.
pub(super) fn description(plan: &Plan) -> Description {
    Description {
        name: plan.name.clone(),
        project_dir: plan.project_dir.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        services: Vec::new(),
        servers: match plan.offer {
            Offer::Nothing => Vec::new(),
            #[cfg(feature = "mcp")]
            Offer::McpStdio => mcp::servers(mcp::Transport::Stdio),
            #[cfg(feature = "mcp")]
            Offer::McpUrl(..) => mcp::servers(mcp::Transport::Http),
        },
        labels: BTreeMap::new(),
    }
}

/// Starts the process, if there is a command, and creates the endpoint of its MCP server, if it is one.
pub(super) fn wire(
    home: &Home,
    plan: &Plan,
    record: &Record,
    vitals: &Arc<VitalsPublisher>,
    reaper: &Arc<Reaper>,
) -> Result<Wired, Problem> {
    assigned_port(plan, record).check(home)?;
    let context = SupervisorContext {
        vitals: Arc::clone(vitals),
        reaper: Arc::clone(reaper),
        log: log(home, plan, record)?,
        log_file: home.process_log(&record.name, MAIN),
        home: home.clone(),
    };
    Ok(match &plan.offer {
        Offer::Nothing => {
            let process = supervise(plan, record, Wiring::Output, OnSuccess::Finish, context);
            Wired { process, server: None }
        }
        #[cfg(feature = "mcp")]
        Offer::McpStdio => mcp::wire_stdio(plan, record, context),
        #[cfg(feature = "mcp")]
        Offer::McpUrl(url, headers) => mcp::wire_url(plan, record, url, headers, context),
    })
}

fn supervise(
    plan: &Plan,
    record: &Record,
    wiring: Wiring,
    on_success: OnSuccess,
    context: SupervisorContext,
) -> Option<Process> {
    let instance = &plan.settings.instance;
    let program = Program {
        path: plan.executable.clone()?,
        command: plan.command.clone(),
        dir: plan.project_dir.clone(),
        launch_env: plan.launch.env.clone(),
        env: vec![(env::INSTANCE, record.name.clone().into())],
        owner: InstanceRun::of(record.id, &record.process).mark(MAIN),
    };
    let backoff = backoff::BackoffPolicy {
        min: instance.backoff_min,
        max: instance.backoff_max,
        reset_after: instance.backoff_reset,
    };
    let (port, stop_timeout) = (assigned_port(plan, record), instance.stop_timeout);
    let spec = Spec { name: MAIN.to_owned(), program, port, wiring, on_success, backoff, stop_timeout };
    Some(Process::start(spec, context))
}

/// Returns which port the process is assigned. By default an MCP server gets none: on a pipe it needs none, and at a
/// URL it has its own.
fn assigned_port(plan: &Plan, record: &Record) -> AssignedPort {
    let is_set = || std::env::var_os(env::PORT).is_some_and(|port| !port.is_empty());
    match (plan.port, &plan.offer) {
        (PortChoice::Exactly(port), _) => AssignedPort::Exactly(port),
        (PortChoice::Any, _) => AssignedPort::any(record.id),
        (PortChoice::Default, Offer::Nothing) if plan.settings.instance.give_port && !is_set() => {
            AssignedPort::any(record.id)
        }
        (PortChoice::Nothing | PortChoice::Default, _) => AssignedPort::Nothing,
    }
}

fn log(home: &Home, plan: &Plan, record: &Record) -> Result<Log, Problem> {
    let path = home.process_log(&record.name, MAIN);
    if let Some(dir) = path.parent() {
        private_dir(dir)?;
    }
    let terminal = if plan.pass_through { Terminal::PassThrough } else { Terminal::Silent };
    let limits = &plan.settings.log;
    logfile::Writer::open(&path, limits.max_bytes, limits.keep).and_then(|file| Log::start(file, terminal)).map_err(
        |error| {
            Problem::from_io(&error, Code::HomeUnusable, "cannot open the log")
                .seen("path", path.display().to_string())
                .next(format!("ls -l {}", path.display()))
        },
    )
}

/// The wiring of MCP servers.
#[cfg(feature = "mcp")]
mod mcp {
    pub(super) use linchpin_shared::protocol::vitals::Transport;

    use super::{Wired, supervise};
    use crate::agent::options::{MAIN, Plan};
    use crate::mcp::ServerName;
    use crate::mcp::proxy::{ProxyEndpoint, ServerUrl};
    use crate::mcp::stdio::StdioAttachment;
    use crate::server::state::McpEndpoint;
    use crate::supervisor::restart_policy::OnSuccess;
    use crate::supervisor::{SupervisorContext, Wiring};
    use crate::vitals_publisher::ServerVitalsPublisher;
    use http::{HeaderName, HeaderValue};
    use linchpin_shared::registry::record::{self, Record};
    use std::sync::Arc;

    /// The one server of the instance, as its record lists it.
    pub(super) fn servers(transport: Transport) -> Vec<record::Server> {
        vec![record::Server { name: MAIN.to_owned(), transport, url: None }]
    }

    pub(super) fn wire_stdio(plan: &Plan, record: &Record, context: SupervisorContext) -> Wired {
        let attachment =
            StdioAttachment::new(vitals(&context, Transport::Stdio), plan.settings.instance.max_line_bytes);
        let runs = attachment.runs(server_name(record));
        let wiring = Wiring::Stdio(Box::new(attachment));
        let process = supervise(plan, record, wiring, OnSuccess::Restart, context);
        let server = process.clone().map(|process| -> Box<dyn McpEndpoint> {
            Box::new(runs.endpoint(process, plan.settings.gateway.max_message_bytes))
        });
        Wired { process, server }
    }

    pub(super) fn wire_url(
        plan: &Plan,
        record: &Record,
        url: &ServerUrl,
        headers: &[(HeaderName, HeaderValue)],
        context: SupervisorContext,
    ) -> Wired {
        let vitals = vitals(&context, Transport::Http);
        // Without a process of ours it counts as up, and in its first run.
        vitals.publish(plan.executable.is_none(), u64::from(plan.executable.is_none()));
        let endpoint = ProxyEndpoint::new(server_name(record), url.clone(), plan.settings.gateway.max_message_bytes);
        let process = supervise(plan, record, Wiring::Url(vitals), OnSuccess::Restart, context);
        Wired { process, server: Some(Box::new(endpoint.with_headers(headers.to_vec()))) }
    }

    fn vitals(context: &SupervisorContext, transport: Transport) -> ServerVitalsPublisher {
        ServerVitalsPublisher::new(MAIN.to_owned(), transport, Arc::clone(&context.vitals))
    }

    fn server_name(record: &Record) -> ServerName {
        ServerName { instance: record.name.clone(), server: MAIN.to_owned() }
    }
}
