//! A process in words: pid, command line, and whether somebody stopped it.
//!
//! Owns how a process that holds something is put into a problem. Never: signals it.

use linchpin_shared::problem::Problem;
use linchpin_shared::process::{Identity, command_line};

/// Adds who this process is, and what a person does about it.
pub(super) fn name(problem: Problem, process: &Identity) -> Problem {
    let pid = process.pid;
    let command = command_line(pid).unwrap_or_else(|| process.executable.display().to_string());
    let problem = problem.seen("pid", pid).seen("command", command);
    if is_stopped(pid) {
        let problem = problem.seen("state", "stopped (SIGSTOP, Ctrl-Z or a debugger)");
        return problem
            .next(format!("let it go on: kill -CONT {pid}"))
            .next(format!("or end it: kill {pid}; kill -CONT {pid}"));
    }
    problem.next(format!("ps -o pid,stat,etime,args -p {pid}"))
}

/// Whether the process of this pid is stopped or traced (proc_pid_stat(5), field 3).
pub(super) fn is_stopped(pid: u32) -> bool {
    let Ok(stat) = std::fs::read(format!("/proc/{pid}/stat")) else { return false };
    let state = stat.iter().rposition(|&byte| byte == b')').and_then(|end| stat.get(end + 2));
    matches!(state, Some(b'T' | b't'))
}

#[cfg(test)]
mod tests {
    #[test]
    fn we_are_not_stopped() {
        assert!(!super::is_stopped(std::process::id()));
        assert!(!super::is_stopped(u32::MAX));
    }
}
