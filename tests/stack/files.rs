//! What holds for all scripts of the repository.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::shell;

/// Every file of the checkout that is a shell script.
fn scripts() -> Vec<PathBuf> {
    const NOT_OURS: &[&str] = &["target", ".git", "node_modules", "corpus"];
    let (mut found, mut directories) = (Vec::new(), vec![shell::root().to_owned()]);
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let (entry, path) = (entry.as_ref().unwrap(), entry.as_ref().unwrap().path());
            if NOT_OURS.iter().any(|name| entry.file_name() == *name) {
                continue;
            }
            match entry.file_type().unwrap() {
                kind if kind.is_dir() => directories.push(path),
                kind if kind.is_file() && is_script(&path) => found.push(path),
                _ => {}
            }
        }
    }
    found
}

fn is_script(path: &Path) -> bool {
    let by_name = path.extension().is_some_and(|extension| extension == "sh");
    by_name || std::fs::read(path).is_ok_and(|text| is_shell(&text))
}

/// Whether a file's first line names a shell.
fn is_shell(text: &[u8]) -> bool {
    let first = text.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let first = String::from_utf8_lossy(first);
    first.starts_with("#!") && (first.ends_with("/sh") || first.ends_with("bash"))
}

#[test]
fn every_script_passes_shellcheck() {
    let scripts = scripts();
    assert!(scripts.len() > 5, "the scripts were not found: {scripts:?}");
    let mut shellcheck = Command::new(shell::program("shellcheck"));
    shellcheck.args(["--severity=warning", "--external-sources", "--source-path=SCRIPTDIR"]).args(&scripts);
    let outcome = shell::run(shellcheck.current_dir(shell::root()));
    assert_eq!(outcome.code, Some(0), "{}{}", outcome.stdout, outcome.stderr);
}
