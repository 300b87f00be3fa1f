//! A network namespace of one test, and the faults in it.
//!
//! [`isolated`] runs a scenario in a namespace of its own, and [`Net`] is what the scenario does there: rules of
//! nftables on the loopback interface, interfaces, sockets. The test starts itself again under `unshare`, so hub,
//! instances and the test itself are all inside, and the kernel removes the namespace with the last of them. The
//! network of the machine is never changed.
//!
//! A scenario reports whether it runs as root or in a user namespace, and fails where it can do neither.

use anyhow::{Context, Result, bail, ensure};
use std::fmt::Write;
use std::process::{Command, Output};

/// Set in a test that runs inside a namespace, to the way in which it got there.
const INSIDE: &str = "LAB_NETNS";

/// Selects the way into a namespace: `root` or `user`. If it is not set, both are tried in this order.
const WAY: &str = "LAB_NETNS_WAY";

/// The ports that the kernel assigns: those of all instances, and never that of the hub (see [`super::Lab`]).
pub const EPHEMERAL: &str = "32768-60999";

/// How a process gets a network namespace of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// As root.
    Root,
    /// As root of a user namespace, which any user may create where the system allows it.
    User,
}

impl Way {
    /// A description for people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Root => "as root",
            Self::User => "in a user namespace",
        }
    }

    fn unshare(self) -> Command {
        let mut command = tool("unshare");
        // The child ends with `unshare`, and `unshare` ends with the process group of the test.
        command.args(["--fork", "--kill-child", "--net"]);
        if self == Self::User {
            command.args(["--user", "--map-root-user"]);
        }
        command.arg("--");
        command
    }

    /// Checks that a namespace and rules in it can be created in this way.
    fn works(self) -> Result<()> {
        let tried = self.unshare().args(["sh", "-c", "ip link set lo up && nft add table inet lab"]).output();
        let output = tried.context("unshare cannot be started; it is in the Debian package util-linux")?;
        ensure!(output.status.success(), "{}: {}", self.as_str(), String::from_utf8_lossy(&output.stderr).trim());
        Ok(())
    }
}

/// The way in which network namespaces can be created on this machine.
///
/// # Errors
/// If there is none; with the error of each way.
pub fn way() -> Result<Way> {
    let wanted = std::env::var(WAY).ok();
    let ways = match wanted.as_deref() {
        Some("root") => vec![Way::Root],
        Some("user") => vec![Way::User],
        Some(other) => bail!("{WAY} is {other:?}; it may be \"root\" or \"user\""),
        None => vec![Way::Root, Way::User],
    };
    let mut refused = String::new();
    for way in ways {
        match way.works() {
            Ok(()) => return Ok(way),
            Err(error) => writeln!(refused, "  {error:#}")?,
        }
    }
    bail!(
        "no network namespace can be created here, so these scenarios cannot run:\n{refused}\
         run them as root, or allow user namespaces (sysctl user.max_user_namespaces), and install nftables and iproute2"
    )
}

/// Runs a scenario in a network namespace of its own. Call it as the whole body of a `#[test]`, with a closure written
/// in it: the name of the closure tells which test to start again.
///
/// # Errors
/// The error of the scenario, or that no namespace can be created.
pub fn isolated<S: AsyncFnOnce(Net) -> Result<()>>(scenario: S) -> Result<()> {
    match std::env::var(INSIDE) {
        Ok(way) => inside(&way, scenario),
        Err(_) => outside(way()?, std::any::type_name::<S>()),
    }
}

#[expect(clippy::print_stderr, reason = "every failure must show which way was taken")]
fn inside(way: &str, scenario: impl AsyncFnOnce(Net) -> Result<()>) -> Result<()> {
    eprintln!("in a network namespace of its own, {way}");
    let net = Net::new()?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(scenario(net))
}

/// Starts this test again inside a namespace. `closure` is its path in the form of the compiler:
/// `crate::module::test::{{closure}}`.
fn outside(way: Way, closure: &str) -> Result<()> {
    let path = closure.split_once("::").and_then(|(_crate, rest)| rest.strip_suffix("::{{closure}}"));
    let test = path.with_context(|| format!("{closure} is no closure of a test"))?;
    let status = way
        .unshare()
        .arg(std::env::current_exe()?)
        .args([test, "--exact", "--nocapture", "--include-ignored"])
        .env(INSIDE, way.as_str())
        .status()?;
    ensure!(status.success(), "{test} failed in its network namespace ({}): {status}", way.as_str());
    Ok(())
}

/// Which of a connection's packets a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packets {
    /// Packets to the port.
    To,
    /// Packets from the port.
    From,
    /// All packets.
    Both,
    /// Only packets to the port that request a connection.
    Syn,
}

/// The network of one scenario.
#[derive(Debug)]
pub struct Net(());

impl Net {
    fn new() -> Result<Self> {
        let net = Self(());
        net.ip(&["link", "set", "lo", "up"])?;
        // At the input hook, because the sender gets an error for a packet that is dropped on output.
        net.nft("add table inet lab; add chain inet lab input { type filter hook input priority 0; policy accept; }")?;
        Ok(net)
    }

    /// Applies a verdict of nftables to packets of these ports (a number or a range) from now on.
    ///
    /// # Errors
    /// If nftables refuses the rule.
    pub fn rule(&self, packets: Packets, ports: &str, verdict: &str) -> Result<()> {
        let matches: &[&str] = match packets {
            Packets::To => &["tcp dport"],
            Packets::From => &["tcp sport"],
            Packets::Both => &["tcp dport", "tcp sport"],
            Packets::Syn => &["tcp flags & (syn | ack) == syn tcp dport"],
        };
        let rules = matches.iter().map(|side| format!("add rule inet lab input {side} {ports} {verdict}"));
        self.nft(&rules.collect::<Vec<_>>().join("; "))
    }

    /// Drops these packets.
    ///
    /// # Errors
    /// As [`Net::rule`].
    pub fn drop(&self, packets: Packets, ports: &str) -> Result<()> {
        self.rule(packets, ports, "drop")
    }

    /// Answers these packets with a TCP reset. With [`Packets::Both`] the resets themselves would be dropped.
    ///
    /// # Errors
    /// As [`Net::rule`].
    pub fn reset(&self, packets: Packets, ports: &str) -> Result<()> {
        self.rule(packets, ports, "reject with tcp reset")
    }

    /// Drops packets at random, in both directions.
    ///
    /// # Errors
    /// As [`Net::rule`].
    pub fn lossy(&self, percent: u8, ports: &str) -> Result<()> {
        self.rule(Packets::Both, ports, &format!("numgen random mod 100 < {percent} drop"))
    }

    /// Removes all rules.
    ///
    /// # Errors
    /// If nftables fails.
    pub fn heal(&self) -> Result<()> {
        self.nft("flush chain inet lab input")
    }

    /// `ip ARGUMENTS`.
    ///
    /// # Errors
    /// If it fails; with what it printed.
    pub fn ip(&self, arguments: &[&str]) -> Result<()> {
        run(tool("ip").args(arguments)).map(|_| ())
    }

    /// Destroys every connection to this port at the side of its client with `ss -K`, if the client has one of the
    /// usual [`EPHEMERAL`] ports.
    ///
    /// # Errors
    /// If the kernel cannot (it needs `CONFIG_INET_DIAG_DESTROY`), or there was none.
    pub fn cut(&self, port: u16) -> Result<()> {
        let (port, (first, last)) = (port.to_string(), EPHEMERAL.split_once('-').context("a range")?);
        let filter = ["dport", "=", &port, "and", "sport", "ge", first, "and", "sport", "le", last];
        let output = tool("ss").args(["-K", "-H", "-t", "state", "established"]).args(filter).output();
        let output = output.context("ss cannot be started; it is in the Debian package iproute2")?;
        // The exit code is useless: `ss` also fails for what has no socket to destroy, such as TIME_WAIT.
        ensure!(!output.stdout.is_empty(), "no connection was cut: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// How many connections to this port are established, from the view of their clients.
    ///
    /// # Errors
    /// If `ss` fails.
    pub fn connections_to(&self, port: u16) -> Result<usize> {
        let port = port.to_string();
        let output = run(tool("ss").args(["-H", "-t", "state", "established", "dport", "=", &port]))?;
        Ok(String::from_utf8_lossy(&output.stdout).lines().count())
    }

    /// Sets the range of local ports that the kernel assigns to new connections.
    ///
    /// # Errors
    /// If it cannot be set.
    pub fn ephemeral_ports(&self, range: std::ops::RangeInclusive<u16>) -> Result<()> {
        let value = format!("{} {}", range.start(), range.end());
        std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", value).context("cannot set the range of ports")
    }

    fn nft(&self, commands: &str) -> Result<()> {
        run(tool("nft").arg(commands)).map(|_| ())
    }
}

/// A program that may be in a directory that only the `PATH` of root contains.
fn tool(name: &str) -> Command {
    let mut command = Command::new(name);
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    command
}

fn run(command: &mut Command) -> Result<Output> {
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(output)
}
