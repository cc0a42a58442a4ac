#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pgweir_fuzz::run("backend", data));
