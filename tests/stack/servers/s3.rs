//! moto's S3 server in MinIO's place: the same API, from PyPI.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use crate::shell::{self, Outcome};
use crate::support::place;

/// A running server without any buckets; it ends when it is dropped.
pub struct S3 {
    /// Where it listens on 127.0.0.1.
    pub port: u16,
    directory: PathBuf,
    shell: Child,
}

/// Ends the server when the pipe does that only the test process holds, whatever way it ends.
const GUARD: &str = r#""$@" 2>&1 </dev/null & pid=$!; read _; kill $pid; wait $pid"#;

impl S3 {
    /// Starts one and waits until it listens. It runs as whoever runs the tests: its files are theirs.
    #[track_caller]
    pub fn start() -> Self {
        let directory = place::directory("s3");
        let port = place::free_port();
        let log = std::fs::File::create(directory.join("log")).unwrap();
        let mut guard = Command::new("/bin/sh");
        guard.args(["-c", GUARD, "guard"]).arg(moto()).args(["-H", "127.0.0.1", "-p", &port.to_string()]);
        let shell =
            guard.stdin(Stdio::piped()).stdout(log).stderr(Stdio::null()).spawn().expect("/bin/sh runs");
        let store = Self { port, directory, shell };
        crate::support::eventually("the S3 server listens", || {
            let log = super::log(&store.directory);
            assert!(!log.contains("Error") && !log.contains("not found"), "{log}");
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        store
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What the AWS command line answers to these words.
    #[track_caller]
    pub fn aws(&self, words: &[&str]) -> String {
        self.try_aws(words).succeeded().trim_end().to_owned()
    }

    /// The same where it may fail.
    pub fn try_aws(&self, words: &[&str]) -> Outcome {
        let mut aws = Command::new(shell::program("aws"));
        aws.args(["--endpoint-url", &self.url(), "--output", "text"]).env("AWS_ACCESS_KEY_ID", "admin");
        aws.env("AWS_SECRET_ACCESS_KEY", "secret").env("AWS_DEFAULT_REGION", "us-east-1");
        shell::run(aws.args(words))
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// `moto_server`, where `scripts/drivers.sh` puts it.
fn moto() -> PathBuf {
    static MOTO: OnceLock<PathBuf> = OnceLock::new();
    MOTO.get_or_init(|| {
        shell::run(&mut Command::new(shell::root().join("scripts/drivers.sh"))).succeeded();
        let target =
            std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| shell::root().join("target"), PathBuf::from);
        target.join("drivers/venv/bin/moto_server")
    })
    .clone()
}
