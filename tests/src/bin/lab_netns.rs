//! Says how the scenarios in network namespaces run on this machine, or fails because they cannot: `lab-netns`.
#![expect(clippy::print_stdout, reason = "its purpose is to print")]

fn main() -> anyhow::Result<()> {
    println!("network namespaces: {}", linchpin_tests::lab::net::way()?.as_str());
    Ok(())
}
