//! `linchpin`, the command line: one file per verb, over the hub's API.
//!
//! Owns the arguments, the choice of runtime and the exit code (DESIGN 4.6 and 4.11). A verb finds or starts the hub
//! through [`reach`], asks it through [`client`], and prints through [`output`].
//! Invariant: every error that leaves here is a `Problem` with its exit code; with `--json` it is printed as JSON on
//! standard output, else as text on standard error.
//! Never: reaches into the hub's state, or asks anything where there is no terminal.

mod ask;
mod call;
mod client;
mod config;
mod doctor;
mod explain;
mod hub;
mod import;
mod logs;
mod lost;
mod mcp;
mod output;
mod proven;
mod pulse;
mod reach;
mod register;
mod reply;
mod run;
mod session;
mod shown;
mod status;
mod steer;
mod tools;

use clap::{Parser, Subcommand};
use linchpin_shared::home::Home;
use linchpin_shared::problem::{Code, Exit, Problem};
use output::Output;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

/// A fifth less CPU per relayed request than the system's allocator (measured; see `make bench`).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Keeps your project's processes and MCP servers reachable at one steady address.
#[derive(Debug, Parser)]
#[command(name = "linchpin", version, max_term_width = 110)]
struct Cli {
    /// Print JSON, errors included
    #[arg(long, global = true)]
    json: bool,
    /// Fail when no hub is running instead of starting one
    #[arg(long, global = true)]
    no_autostart: bool,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the hub in the foreground, or stop the one that runs
    Hub(hub::Args),
    /// Run a command as an instance
    Run(run::Args),
    /// Make a program that runs already known as an instance, until it ends
    Register(register::Args),
    /// Speak MCP on standard input and output, for a coding agent
    Mcp(shown::Shown),
    /// Take over the MCP servers of your coding agents: show what would become of them, or do it
    Import(import::Args),
    /// Show the hub and all instances, or one of them
    Status(status::Args),
    /// List the tools that all instances offer
    Tools(tools::Args),
    /// Call a tool
    Call(call::Args),
    /// Say what an instance's link is doing, why, and what comes next
    Explain(explain::Args),
    /// Print the output of an instance's processes
    Logs(logs::Args),
    /// Restart an instance's processes, or one of them
    Restart(steer::Restart),
    /// Stop an instance and everything it started
    Stop(steer::Stop),
    /// Print the token for the hub's HTTP interface
    Token,
    /// Show the settings
    Config(config::Args),
    /// Say what is wrong and what to do about it; needs no hub and starts none
    Doctor(doctor::Args),
    /// Keeps an agent: for `run --detach`
    #[command(hide = true)]
    Keeper(run::Inner),
    /// The agent under a keeper: for `run --detach`
    #[command(hide = true)]
    Agent(run::Inner),
}

/// What every verb is given.
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
        // The hook has told it.
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
        Verb::Restart(args) => single_threaded(steer::restart(&context, args)),
        Verb::Stop(args) => single_threaded(steer::stop(&context, args)),
        Verb::Config(args) => config::main(&context, &args),
        Verb::Doctor(args) => single_threaded(doctor::main(output, Ok(context.home), args)),
        Verb::Keeper(_) => run::keeper(),
        Verb::Agent(_) => run::agent(),
        Verb::Token => single_threaded(hub::token(&context)),
    }
}

/// Runs a verb that only waits for others: one thread starts fastest and needs least.
fn single_threaded(verb: impl Future<Output = Result<Exit, Problem>>) -> Result<Exit, Problem> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Problem::from_io(&error, Code::Internal, "cannot start the runtime"))?
        .block_on(verb)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_consistent() {
        super::Cli::command().debug_assert();
    }
}
