//! `linchpin`, the command line: one file for each verb, over the hub's API.
//!
//! A verb finds or starts the hub through [`reach`], calls it through [`client`], and prints through [`output`]. Every
//! error is a `Problem` with an exit code (ARCHITECTURE.md, "Problems" and "Command line"); with `--json` it is printed
//! as JSON on standard output, otherwise as text on standard error. Where there is no terminal, nothing is asked.

mod call;
mod client;
mod config;
mod doctor;
mod explain;
mod health_probe;
mod hub;
mod import;
mod jsonrpc;
mod logs;
mod mcp;
mod mcp_client;
mod output;
mod prompt;
mod reach;
mod register;
mod restart;
mod run;
mod send_error;
mod session;
mod status;
mod stop;
mod tools;
mod verify_hub;
mod view_args;

use clap::{Parser, Subcommand};
use linchpin_shared::home::Home;
use linchpin_shared::problem::{Code, Exit, Problem};
use output::Output;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

/// Needs a fifth less CPU time for each relayed request than the allocator of the system (see `make bench`).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Keeps your project's processes and MCP servers reachable at one steady address.
#[derive(Debug, Parser)]
#[command(name = "linchpin", version, max_term_width = 110)]
struct Cli {
    /// Print JSON, also for errors
    #[arg(long, global = true)]
    json: bool,
    /// Fail if no hub is running, instead of starting one
    #[arg(long, global = true)]
    no_autostart: bool,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the hub in the foreground, or stop the running one
    Hub(hub::Args),
    /// Run a command as an instance
    Run(run::Args),
    /// Register a program that is already running, until it ends
    Register(register::Args),
    /// Speak MCP on standard input and output, for a coding agent
    Mcp(view_args::ViewArgs),
    /// Import the MCP servers of your coding agents: show the changes, or apply them
    Import(import::Args),
    /// Show the hub and all instances, or one instance
    Status(status::Args),
    /// List the tools that all instances offer
    Tools(tools::Args),
    /// Call a tool
    Call(call::Args),
    /// Explain what the link to an instance is doing, why, and what comes next
    Explain(explain::Args),
    /// Print the output of the processes of an instance
    Logs(logs::Args),
    /// Restart the processes of an instance, or one of them
    Restart(restart::Args),
    /// Stop an instance and everything that it started
    Stop(stop::Args),
    /// Print the token for the hub's HTTP interface
    Token,
    /// Show the settings
    Config(config::Args),
    /// Find out what is wrong and how to repair it; needs no hub and starts none
    Doctor(doctor::Args),
    /// The keeper of a background agent; started by `run --detach`
    #[command(hide = true)]
    Keeper(run::InternalArgs),
    /// The agent that a keeper runs; started by `run --detach`
    #[command(hide = true)]
    Agent(run::InternalArgs),
}

/// What every verb needs.
struct Context {
    home: Home,
    autostart: bool,
    output: Output,
}

/// Parses the command line, runs the verb and returns its exit code.
fn main() -> ExitCode {
    let cli = Cli::parse();
    let output = Output::new(cli.json);
    let exit = match catch_unwind(AssertUnwindSafe(|| run_verb(cli, output))) {
        Ok(Ok(exit)) => exit,
        // The panic hook has reported it.
        Err(_panic) => Exit::Failed,
        Ok(Err(problem)) => {
            output.problem(&problem);
            problem.exit()
        }
    };
    ExitCode::from(exit as u8)
}

fn run_verb(cli: Cli, output: Output) -> Result<Exit, Problem> {
    let home = Home::from_env();
    if let Verb::Doctor(args) = cli.verb {
        return single_threaded(doctor::main(output, home, args));
    }
    let context = Context { home: home?, autostart: !cli.no_autostart, output };
    match cli.verb {
        Verb::Hub(args) => hub::main(&context, &args),
        Verb::Run(args) => run::main(&context, args),
        Verb::Register(args) => register::main(&context, args),
        Verb::Mcp(args) => single_threaded(mcp::main(&context, args)),
        Verb::Import(args) => import::main(&context, &args),
        Verb::Status(args) => single_threaded(status::main(&context, args)),
        Verb::Tools(args) => single_threaded(tools::main(&context, args)),
        Verb::Call(args) => single_threaded(call::main(&context, args)),
        Verb::Explain(args) => single_threaded(explain::main(&context, args)),
        Verb::Logs(args) => single_threaded(logs::main(&context, args)),
        Verb::Restart(args) => single_threaded(restart::main(&context, args)),
        Verb::Stop(args) => single_threaded(stop::main(&context, args)),
        Verb::Config(args) => config::main(&context, &args),
        Verb::Doctor(args) => single_threaded(doctor::main(output, Ok(context.home), args)),
        Verb::Keeper(_) => run::keeper(),
        Verb::Agent(_) => run::agent(),
        Verb::Token => single_threaded(hub::token(&context)),
    }
}

/// Runs a verb on one thread. A verb only waits for others, and this way it starts fastest and needs least.
fn single_threaded(verb: impl Future<Output = Result<Exit, Problem>>) -> Result<Exit, Problem> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Problem::from_io(&error, Code::Internal, "cannot start the async runtime"))?
        .block_on(verb)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn arguments_are_consistent() {
        super::Cli::command().debug_assert();
    }
}
