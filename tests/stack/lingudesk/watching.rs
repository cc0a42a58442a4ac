//! What Prometheus learns of the running services, and the alerts that come of it: with the repository's own
//! configuration and rules, and exporters from the distribution.

use super::{Operator, files, password, postgres, weir_with};
use crate::servers::redis::Redis;
use crate::servers::watcher::{Watcher, configuration};
use crate::shell;
use crate::support::{eventually, place};

/// The alerts that fire now: the whole of Prometheus' answer, and whether `alert` is among them.
fn fires(prometheus: &Watcher, alert: &str) -> bool {
    prometheus.get("/api/v1/alerts").contains(&format!("\"alertname\":\"{alert}\""))
}

fn is_known(prometheus: &Watcher, metric: &str) -> bool {
    prometheus.get(&format!("/api/v1/query?query={metric}")).contains("\"metric\"")
}

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

#[test]
fn a_failed_backup_and_a_certificate_that_expires_raise_alerts() {
    let postgres = postgres();
    let (certificate, key) = certificate("5");
    let tls = [
        ("CLIENT_TLS_SSLMODE", "prefer"),
        ("CLIENT_TLS_CERT_FILE", certificate.as_str()),
        ("CLIENT_TLS_KEY_FILE", &key),
    ];
    let weir = weir_with(&postgres, &tls);
    let redis_environment = [("REDIS_PASSWORD", "redis-secret"), ("REDIS_MAXMEMORY", "64mb")];
    let redis =
        Redis::by_script(&files().join("config/lingudesk/redis.sh"), "redis-secret", &redis_environment);
    let metrics = shell::scratch("metrics");
    let operator = Operator::of(&postgres).set("METRICS_DIR", metrics.to_str().unwrap());

    // The exporters, told what docker-compose.yml tells them.
    let machine = Watcher::exporter(
        "prometheus-node-exporter",
        &[&format!("--collector.textfile.directory={}", metrics.display())],
        &[],
    );
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
    let targets = [
        ("pgweir:9930", weir.http_port),
        ("postgres-exporter:9187", of_postgres.port),
        ("redis-exporter:9121", of_redis.port),
        ("node-exporter:9100", machine.port),
        ("minio:9000", 1),
    ];
    let prometheus = Watcher::prometheus(configuration(&files().join("config/monitoring"), &targets));
    weir.login("lingudesk_content", "db_user", password("DB_PASSWORD")).query("SELECT 1");
    for metric in [
        "up{job=\"pgweir\"}==1",
        "pg_up==1",
        "redis_up==1",
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
        let escaped =
            metric.replace('{', "%7B").replace('}', "%7D").replace('"', "%22").replace("==", "%3D%3D");
        eventually(metric, || is_known(&prometheus, &escaped));
    }
    eventually("the certificate raises an alert", || fires(&prometheus, "CertificateExpires"));
    assert!(!fires(&prometheus, "CertificateExpired"));

    // A good backup, one that fails, another good one.
    operator.back_up();
    eventually("the backup is heard of", || {
        is_known(&prometheus, "backup_last_exit_status%7Bdatabase=%22lingudesk%22%7D%3D%3D0")
    });
    assert!(!fires(&prometheus, "BackupFailed") && !fires(&prometheus, "BackupMissing"));
    operator.run_with(&[("PGPORT", "1")], "backup/backup.sh", &[]).failed(3);
    eventually("the failure raises an alert", || fires(&prometheus, "BackupFailed"));
    let alerts = prometheus.get("/api/v1/alerts");
    assert!(alerts.contains("The last backup of lingudesk failed with exit code 3"), "{alerts}");
    assert!(is_known(&prometheus, "backup_last_success_timestamp_seconds%3E0"), "the good one is remembered");
    operator.back_up();
    eventually("the alert is over", || !fires(&prometheus, "BackupFailed"));
}
