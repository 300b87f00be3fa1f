#![no_main]
//! Everything that reads foreign bytes in the gateway: see `linchpin_hub::gateway::mcp::fuzz`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Err(what) = linchpin_hub::gateway::mcp::fuzz::check(data) {
        panic!("{what}");
    }
});
