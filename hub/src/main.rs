//! The one binary, `linchpin`. All of it is in the library; see `linchpin_hub::cli`.

use std::process::ExitCode;

/// A fifth less CPU per relayed request than the system's allocator (measured; see `make bench`).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    linchpin_hub::cli::main()
}
