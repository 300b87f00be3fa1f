#![no_main]
//! Everything that reads foreign bytes in the gateway: see `linchpin_hub::fuzz`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Err(what) = linchpin_hub::fuzz::check(data) {
        panic!("{what}");
    }
});
