//! What Prometheus learns of the running services, and the alerts that come of it: with the repository's own
//! configuration and rules, and exporters from the distribution.

use std::path::{Path, PathBuf};

use super::{Operator, files, password, postgres, weir_with};
use crate::servers::postgres::Postgres;
use crate::servers::redis::Redis;
use crate::servers::watcher::{Watcher, configuration};
use crate::servers::weir::Weir;
use crate::shell;
use crate::support::{eventually, place};

/// A certificate of pgweir's that lasts this long.
fn certificate(days: &str) -> (String, String) {
    let directory = shell::scratch("certificate");
    let (certificate, key) = (directory.join("tls.crt"), directory.join("tls.key"));
    let mut openssl = place::command(shell::program("openssl"));
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]);
    openssl.args(["-subj", "/CN=localhost", "-days", days, "-out"]).arg(&certificate);
    shell::run(openssl.arg("-keyout").arg(&key)).succeeded();
    (certificate.display().to_string(), key.display().to_string())
}

/// The healthcheck of docker-compose.yml's service `backup`, for the metrics in the current directory.
fn health_of_backups() -> std::process::Command {
    let compose = std::fs::read_to_string(shell::root().join("docker-compose.yml")).unwrap();
    let line = compose.lines().find(|line| line.contains("backup_last_exit_status")).unwrap();
    let shell = line.split('"').nth(3).unwrap().replace("/metrics/", "");
    let mut command = std::process::Command::new("sh");
    command.args(["-c", &shell]);
    command
}

/// The services with all that watches them, told what docker-compose.yml tells them. The certificate of pgweir lasts five
/// days.
struct Watched {
    prometheus: Watcher,
    operator: Operator,
    metrics: PathBuf,
    _servers: (Postgres, Weir, Redis, [Watcher; 3]),
}

impl Watched {
    fn start() -> Self {
        let postgres = postgres();
        let (certificate, key) = certificate("5");
        let tls = [
            ("CLIENT_TLS_SSLMODE", "prefer"),
            ("CLIENT_TLS_CERT_FILE", certificate.as_str()),
            ("CLIENT_TLS_KEY_FILE", &key),
        ];
        let weir = weir_with(&postgres, &tls);
        weir.login("lingudesk_content", "db_user", password("DB_PASSWORD")).query("SELECT 1");
        let environment = [("REDIS_PASSWORD", "redis-secret"), ("REDIS_MAXMEMORY", "64mb")];
        let redis =
            Redis::by_script(&files().join("config/lingudesk/redis.sh"), "redis-secret", &environment);
        let metrics = shell::scratch("metrics");
        let operator = Operator::of(&postgres).set("METRICS_DIR", metrics.to_str().unwrap());
        let exporters = exporters(&postgres, &redis, &metrics);
        let [of_postgres, of_redis, of_machine] = &exporters;
        let targets = [
            ("pgweir:9930", weir.http_port),
            ("postgres-exporter:9187", of_postgres.port),
            ("redis-exporter:9121", of_redis.port),
            ("node-exporter:9100", of_machine.port),
            ("minio:9000", 1),
        ];
        let prometheus = Watcher::prometheus(configuration(&files().join("config/monitoring"), &targets));
        Self { prometheus, operator, metrics, _servers: (postgres, weir, redis, exporters) }
    }

    /// Whether an alert fires now whose name or summary this is.
    fn fires(&self, alert: &str) -> bool {
        self.prometheus.get("/api/v1/alerts").contains(&format!("\"{alert}\""))
    }

    /// Whether a query has an answer.
    fn knows(&self, query: &str) -> bool {
        let escaped: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
        self.prometheus.get(&format!("/api/v1/query?query={escaped}")).contains("\"metric\"")
    }
}

fn exporters(postgres: &Postgres, redis: &Redis, metrics: &Path) -> [Watcher; 3] {
    let address = format!("127.0.0.1:{}/postgres?sslmode=disable", postgres.port);
    let login = [
        ("DATA_SOURCE_URI", address.as_str()),
        ("DATA_SOURCE_USER", "monitor"),
        ("DATA_SOURCE_PASS", password("MONITOR_PASSWORD")),
    ];
    let of_postgres = Watcher::exporter("prometheus-postgres-exporter", &[], &login);
    let address = format!("redis://127.0.0.1:{}", redis.port);
    let login = [("REDIS_ADDR", address.as_str()), ("REDIS_PASSWORD", "redis-secret")];
    let of_redis = Watcher::exporter("prometheus-redis-exporter", &[], &login);
    let textfiles = format!("--collector.textfile.directory={}", metrics.display());
    [of_postgres, of_redis, Watcher::exporter("prometheus-node-exporter", &[&textfiles], &[])]
}

#[test]
fn a_failed_backup_and_a_certificate_that_expires_raise_alerts() {
    let watched = Watched::start();
    for query in [
        "up{job=\"pgweir\"} == 1",
        "pg_up == 1",
        "redis_up == 1",
        "pgbouncer_pools_client_waiting_connections",
        "pg_stat_activity_count",
        "pg_database_size_bytes",
        "pg_settings_max_connections",
        "redis_memory_used_bytes",
        "redis_keyspace_hits_total",
        "redis_db_keys",
        "node_filesystem_avail_bytes",
        "node_memory_MemAvailable_bytes",
        "node_cpu_seconds_total",
    ] {
        eventually(query, || watched.knows(query));
    }
    eventually("the certificate raises an alert", || watched.fires("CertificateExpires"));
    assert!(!watched.fires("CertificateExpired"));

    // A good backup, one that fails, another good one.
    watched.operator.back_up();
    eventually("the backup is heard of", || {
        watched.knows("backup_last_exit_status{database=\"lingudesk\"} == 0")
    });
    assert!(!watched.fires("BackupFailed") && !watched.fires("BackupMissing"));
    watched.operator.run_with(&[("PGPORT", "1")], "backup/backup.sh", &[]).failed(3);
    eventually("the failure raises an alert", || {
        watched.fires("The last backup of lingudesk failed with exit code 3")
    });
    eventually("the good one is remembered", || watched.knows("backup_last_success_timestamp_seconds > 0"));
    let is_healthy = || shell::run(health_of_backups().current_dir(&watched.metrics)).code == Some(0);
    assert!(!is_healthy());
    watched.operator.back_up();
    assert!(is_healthy());
    eventually("the alert is over", || !watched.fires("BackupFailed"));
}
