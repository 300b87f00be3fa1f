//! Describes a process in a problem: its pid, its command line, and whether it is stopped.

use linchpin_shared::problem::Problem;
use linchpin_shared::process::{Identity, command_line};

/// Adds what is known of this process, and what a person can do about it.
pub(super) fn describe(problem: Problem, process: &Identity) -> Problem {
    let pid = process.pid;
    let command = command_line(pid).unwrap_or_else(|| process.executable.display().to_string());
    let problem = problem.seen("pid", pid).seen("command", command);
    if is_stopped(pid) {
        let problem = problem.seen("state", "stopped (SIGSTOP, Ctrl-Z or a debugger)");
        return problem
            .next(format!("let it continue: kill -CONT {pid}"))
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
    fn this_process_is_not_stopped() {
        assert!(!super::is_stopped(std::process::id()));
        assert!(!super::is_stopped(u32::MAX));
    }
}
