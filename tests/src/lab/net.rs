//! A network namespace that belongs to one test, and the faults in it.
//!
//! Owns [`isolated`], which runs a scenario in a namespace of its own, and [`Net`], what the scenario does there: rules
//! of nftables on the loopback interface, interfaces, sockets. The test starts itself again under `unshare`, so hub,
//! instances and the test itself are all inside, and the kernel removes the namespace with the last of them.
//! Invariant: a scenario says loudly whether it runs as root or in a user namespace, and fails where it can do neither.
//! Never: touches the network of the machine.

use anyhow::{Context, Result, bail, ensure};
use std::fmt::Write;
use std::process::{Command, Output};

/// Says to a test that it is inside, and how it got there.
const INSIDE: &str = "LAB_NETNS";

/// Picks the way in: `root` or `user`. Without it, root's way where it works.
const WAY: &str = "LAB_NETNS_WAY";

/// The ports that the kernel gives to who does not ask for one: every instance's, and never the hub's (see
/// [`super::Lab`]).
pub const EPHEMERAL: &str = "32768-60999";

/// How a process gets a network namespace of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// It is root.
    Root,
    /// It is root of a user namespace of its own, which any user may have where the system allows it.
    User,
}

impl Way {
    /// For people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Root => "as root",
            Self::User => "in a user namespace",
        }
    }

    fn unshare(self) -> Command {
        let mut command = tool("unshare");
        // The child ends with `unshare`, and that with the group of the test.
        command.args(["--fork", "--kill-child", "--net"]);
        if self == Self::User {
            command.args(["--user", "--map-root-user"]);
        }
        command.arg("--");
        command
    }

    /// Whether a namespace can be had in this way, and rules in it.
    fn works(self) -> Result<()> {
        let tried = self.unshare().args(["sh", "-c", "ip link set lo up && nft add table inet lab"]).output();
        let output = tried.context("unshare cannot be started; it is in the Debian package util-linux")?;
        ensure!(output.status.success(), "{}: {}", self.as_str(), String::from_utf8_lossy(&output.stderr).trim());
        Ok(())
    }
}

/// The way in which this machine lets us have network namespaces.
///
/// # Errors
/// When it lets us in no way; with what each of them said.
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
        "no network namespace can be had here, so these scenarios cannot run:\n{refused}\
         run them as root, or allow user namespaces (sysctl user.max_user_namespaces), and install nftables and iproute2"
    )
}

/// Runs a scenario in a network namespace of its own. Call it as the whole of a `#[test]`, with a closure written in it:
/// the test is found again by the closure's name.
///
/// # Errors
/// What the scenario says, or that no namespace can be had.
pub fn isolated<S: AsyncFnOnce(Net) -> Result<()>>(scenario: S) -> Result<()> {
    match std::env::var(INSIDE) {
        Ok(way) => inside(&way, scenario),
        Err(_) => outside(way()?, std::any::type_name::<S>()),
    }
}

#[expect(clippy::print_stderr, reason = "which way was taken must be seen with every failure")]
fn inside(way: &str, scenario: impl AsyncFnOnce(Net) -> Result<()>) -> Result<()> {
    eprintln!("in a network namespace of its own, {way}");
    let net = Net::new()?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(scenario(net))
}

/// Starts this test again, inside. `closure` is its path as the compiler has it: `crate::module::test::{{closure}}`.
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
    /// Those to the port.
    To,
    /// Those from the port.
    From,
    /// All.
    Both,
    /// Only those to the port that ask for a connection.
    Syn,
}

/// The network of one scenario.
#[derive(Debug)]
pub struct Net(());

impl Net {
    fn new() -> Result<Self> {
        let net = Self(());
        net.ip(&["link", "set", "lo", "up"])?;
        // At the input hook: a packet that is dropped on its way out is an error to its sender.
        net.nft("add table inet lab; add chain inet lab input { type filter hook input priority 0; policy accept; }")?;
        Ok(net)
    }

    /// Does this to packets of these ports (a number or a range) from now on; `verdict` is nftables' own words.
    ///
    /// # Errors
    /// When there is no such rule.
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

    /// Loses these packets.
    ///
    /// # Errors
    /// As [`Net::rule`].
    pub fn drop(&self, packets: Packets, ports: &str) -> Result<()> {
        self.rule(packets, ports, "drop")
    }

    /// Answers these packets with a TCP reset. Of [`Packets::Both`] the resets themselves would be lost.
    ///
    /// # Errors
    /// As [`Net::rule`].
    pub fn reset(&self, packets: Packets, ports: &str) -> Result<()> {
        self.rule(packets, ports, "reject with tcp reset")
    }

    /// Loses packets at random, in both directions.
    ///
    /// # Errors
    /// As [`Net::rule`].
    pub fn lossy(&self, percent: u8, ports: &str) -> Result<()> {
        self.rule(Packets::Both, ports, &format!("numgen random mod 100 < {percent} drop"))
    }

    /// Takes all rules back.
    ///
    /// # Errors
    /// When the kernel does not let it.
    pub fn heal(&self) -> Result<()> {
        self.nft("flush chain inet lab input")
    }

    /// `ip ARGUMENTS`.
    ///
    /// # Errors
    /// With what it said.
    pub fn ip(&self, arguments: &[&str]) -> Result<()> {
        run(tool("ip").args(arguments)).map(|_| ())
    }

    /// Ends every connection to this port at its client's side, as `ss -K` does, if the client has one of the usual
    /// [`EPHEMERAL`] ports.
    ///
    /// # Errors
    /// When the kernel cannot (it needs `CONFIG_INET_DIAG_DESTROY`), or there was none.
    pub fn cut(&self, port: u16) -> Result<()> {
        let (port, (first, last)) = (port.to_string(), EPHEMERAL.split_once('-').context("a range")?);
        let filter = ["dport", "=", &port, "and", "sport", "ge", first, "and", "sport", "le", last];
        let output = tool("ss").args(["-K", "-H", "-t", "state", "established"]).args(filter).output();
        let output = output.context("ss cannot be started; it is in the Debian package iproute2")?;
        // Its exit code says nothing: it complains of what has no socket to destroy, such as one in TIME_WAIT.
        ensure!(!output.stdout.is_empty(), "no connection was cut: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// How many connections to this port are established, as their clients see it.
    ///
    /// # Errors
    /// When `ss` fails.
    pub fn connections_to(&self, port: u16) -> Result<usize> {
        let port = port.to_string();
        let output = run(tool("ss").args(["-H", "-t", "state", "established", "dport", "=", &port]))?;
        Ok(String::from_utf8_lossy(&output.stdout).lines().count())
    }

    /// The range of ports that the kernel gives to who connects.
    ///
    /// # Errors
    /// When it cannot be set.
    pub fn ephemeral_ports(&self, range: std::ops::RangeInclusive<u16>) -> Result<()> {
        let value = format!("{} {}", range.start(), range.end());
        std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", value).context("cannot set the range of ports")
    }

    fn nft(&self, commands: &str) -> Result<()> {
        run(tool("nft").arg(commands)).map(|_| ())
    }
}

/// A program that may be where only root's `PATH` looks.
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
