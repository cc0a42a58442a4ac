//! Compose files, read by Debian's `docker-compose`.

use std::path::Path;
use std::process::Command;

use crate::shell::{self, Outcome};
use crate::support::place;

/// What `docker-compose config` makes of a file of the checkout with this `.env` and these profiles. `contexts` are the
/// directories that it builds images from.
///
/// The copy it reads lies alone: a `.env` of the checkout has no part in it.
#[track_caller]
pub fn config(file: &str, contexts: &[&str], env: Option<&str>, profiles: &[&str]) -> Outcome {
    let directory = place::directory("compose");
    std::fs::copy(shell::root().join(file), directory.join("docker-compose.yml")).unwrap();
    for context in contexts {
        std::fs::create_dir_all(directory.join(context)).unwrap();
    }
    if let Some(env) = env {
        std::fs::write(directory.join(".env"), env).unwrap();
    }
    let outcome = config_in(&directory, profiles);
    let _ = std::fs::remove_dir_all(directory);
    outcome
}

fn config_in(directory: &Path, profiles: &[&str]) -> Outcome {
    let mut compose = Command::new(shell::program("docker-compose"));
    compose.env_clear().env("PATH", shell::PATH).env("HOME", directory);
    compose.current_dir(directory).args(profiles.iter().flat_map(|it| ["--profile", it]));
    shell::run(compose.arg("config"))
}
