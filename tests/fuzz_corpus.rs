//! Every fuzz target's body over its corpus: what a fuzzer found once stays fixed without one.

use std::fs;
use std::path::Path;

#[path = "../fuzz/src/lib.rs"]
mod bodies;

#[test]
fn every_file_of_every_corpus_is_handled() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (target, body) in bodies::TARGETS {
        let mut files: Vec<_> = fs::read_dir(corpora.join(target))
            .unwrap_or_else(|error| panic!("fuzz/corpus/{target}: {error}"))
            .map(|entry| entry.expect("the corpus is readable").path())
            .collect();
        files.sort();
        assert!(!files.is_empty(), "fuzz/corpus/{target} is empty");
        for file in files {
            let data = fs::read(&file).expect("the corpus is readable");
            println!("{target}: {}", file.display());
            body(&data);
            // Cut off anywhere, it must be handled as well.
            (0..data.len().min(512)).for_each(|end| body(&data[..end]));
        }
    }
}

#[test]
fn every_target_has_its_binary() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/Cargo.toml");
    let manifest = fs::read_to_string(manifest).expect("it is readable");
    for (target, body) in bodies::TARGETS {
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{target}.rs\"")), "{target}");
        body(&[]);
        bodies::run(target, b"\0");
    }
}
