//! Programs and scripts as an operator would run them, and copies of the repository's files that servers may read.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::place::{self, Guarded};

/// Where distributions put programs: what lies elsewhere may be closed to the servers' user.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The checkout.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// How a program ended and what it printed.
#[derive(Debug)]
pub struct Outcome {
    /// Its exit code; `None` where a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    /// What it printed; fails the test where it did not succeed.
    #[track_caller]
    pub fn succeeded(self) -> String {
        assert_eq!(self.code, Some(0), "{}\n{}", self.stdout, self.stderr);
        self.stdout
    }

    /// What it complained of; fails the test where it did not exit with `code`.
    #[track_caller]
    pub fn failed(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{}\n{}", self.stdout, self.stderr);
        self.stderr
    }
}

/// Runs a command to its end.
#[track_caller]
pub fn run(command: &mut Command) -> Outcome {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    Outcome {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Says that a test is skipped, and why, also where the output of tests that pass is kept back.
pub fn skipped(why: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "skipped: {why}");
}

/// A program of the distribution; fails the test with the way to get it where it is missing.
#[track_caller]
pub fn program(name: &str) -> PathBuf {
    let found = std::env::split_paths(PATH).map(|directory| directory.join(name)).find(|file| file.exists());
    found.unwrap_or_else(|| panic!("{name} is not installed: `make test` installs it"))
}

/// A new directory of the servers' user, gone with the test process, whatever way that ends.
pub fn scratch(kind: &str) -> PathBuf {
    let directory = place::directory(kind);
    // A guard with nothing to guard but the directory.
    std::mem::forget(Guarded::start(&directory, Path::new("true"), &[]));
    directory
}

/// A copy of these files and directories of the checkout, at the same places below a directory of the servers' user,
/// to whom the checkout itself may be closed. Gone with the test process.
#[track_caller]
pub fn copy_of(paths: &[&str]) -> PathBuf {
    let copy = scratch("copy");
    for path in paths {
        let target = copy.join(path);
        std::fs::create_dir_all(target.parent().expect("below the copy")).unwrap();
        run(Command::new("cp").arg("-rp").arg(root().join(path)).arg(&target)).succeeded();
    }
    give_all_away(&copy);
    copy
}

fn give_all_away(path: &Path) {
    place::give_away(path);
    if path.is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            give_all_away(&entry.unwrap().path());
        }
    }
}
