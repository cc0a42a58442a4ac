//! moto's S3 server in MinIO's place: the same API, from PyPI.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::{start, wait_for};
use crate::shell;
use crate::support::place::{self, Guarded};

/// A running server without any buckets; it ends when it is dropped.
pub struct S3 {
    /// Where it listens on 127.0.0.1.
    pub port: u16,
    server: Option<Guarded>,
}

impl S3 {
    /// Starts one and waits until it listens.
    #[track_caller]
    pub fn start() -> Self {
        let directory = place::directory("s3");
        let port = place::free_port();
        let arguments = ["-H", "127.0.0.1", "-p", &port.to_string()];
        let server = start(&directory, &[], &moto(), &arguments);
        wait_for("the S3 server listens", port, &server, &directory);
        Self { port, server: Some(server) }
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What the AWS command line answers to these words.
    #[track_caller]
    pub fn aws(&self, words: &[&str]) -> String {
        let mut aws = Command::new(shell::program("aws"));
        aws.args(["--endpoint-url", &self.url(), "--output", "text"]).env("AWS_ACCESS_KEY_ID", "admin");
        aws.env("AWS_SECRET_ACCESS_KEY", "secret").env("AWS_DEFAULT_REGION", "us-east-1");
        shell::run(aws.args(words)).succeeded().trim_end().to_owned()
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.remove();
        }
    }
}

/// `moto_server`, where `scripts/drivers.sh` puts it. It runs as the servers' user, so where the checkout is closed to
/// that user, everything is copied.
fn moto() -> PathBuf {
    static MOTO: OnceLock<PathBuf> = OnceLock::new();
    MOTO.get_or_init(|| {
        shell::run(&mut Command::new(shell::root().join("scripts/drivers.sh"))).succeeded();
        let target =
            std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| shell::root().join("target"), PathBuf::from);
        let venv = target.join("drivers/venv");
        let server = venv.join("bin/moto_server");
        let reachable = place::command("test").arg("-x").arg(&server).status().unwrap().success();
        if reachable { server } else { relocated(&venv) }
    })
    .clone()
}

fn relocated(venv: &Path) -> PathBuf {
    let directory = place::directory("moto");
    let copy = directory.join("venv");
    shell::run(Command::new("cp").arg("-a").arg(venv).arg(&copy)).succeeded();
    std::mem::forget(Guarded::start(&directory, Path::new("true"), &[]));
    // The script's first line names the interpreter in the venv's old place.
    let script = copy.join("bin/moto_server");
    let text = std::fs::read_to_string(&script).unwrap();
    let (old, new) = (venv.display().to_string(), copy.display().to_string());
    std::fs::write(&script, text.replace(&old, &new)).unwrap();
    script
}
