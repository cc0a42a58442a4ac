//! The systems of `config/`, each with its own PostgreSQL, its own pgweir and a client like its application.

mod arasul;
mod cloudtolocalllm;
mod homelab;
mod spike;

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::servers::weir::Weir;
use crate::shell;
use crate::support::place;

/// Where `scripts/drivers.sh` puts drivers and examiners; it is run where they are missing or outdated.
pub fn drivers() -> PathBuf {
    shell::run(&mut Command::new(shell::root().join("scripts/drivers.sh"))).succeeded();
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| shell::root().join("target"), PathBuf::from);
    target.join("drivers")
}

/// Runs a script of `clients` as this user through pgweir, for what it prints.
#[track_caller]
pub fn client(script: &str, weir: &Weir, (database, user, password): (&str, &str, &str)) -> Command {
    let drivers = drivers();
    let file = shell::root().join("tests/stack/clients").join(script);
    let mut command = match script.ends_with(".py") {
        true => Command::new(drivers.join("venv/bin/python")),
        false => Command::new("node"),
    };
    command.arg(file).env("PGWEIR_NODE_MODULES", drivers.join("node/node_modules"));
    command.env("PYTHONDONTWRITEBYTECODE", "1").env("DB_PORT", weir.port.to_string());
    command.env("DB_NAME", database).env("DB_USER", user).env("DB_PASSWORD", password);
    command
}

/// One of PostgreSQL's programs, coming through pgweir.
fn program(name: &str, port: u16, (database, user, password): (&str, &str, &str)) -> Command {
    let mut command = place::command(place::postgres_program(name));
    command.env("PGHOST", "127.0.0.1").env("PGPORT", port.to_string()).env("PGDATABASE", database);
    command.env("PGUSER", user).env("PGPASSWORD", password);
    command
}

/// What SHOW CONFIG says of a setting.
#[track_caller]
fn setting(weir: &Weir, (user, password): (&str, &str), name: &str) -> String {
    let rows = weir.login("pgweir", user, password).rows("SHOW CONFIG");
    let row = rows.into_iter().find(|row| row[0].as_deref() == Some(name));
    row.and_then(|row| row[1].clone()).unwrap_or_else(|| panic!("no setting {name}"))
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
