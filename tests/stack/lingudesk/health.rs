//! health-check.sh, against servers that are well, down, full of work, or late.

use super::{Operator, files, password, postgres, weir};
use crate::servers::redis::Redis;
use crate::servers::s3::S3;
use crate::support::place;

const CHECK: &str = "monitoring/health-check.sh";

#[test]
fn the_health_check_tells_what_is_down() {
    let (mut postgres, store) = (postgres(), S3::start());
    let weir = weir(&postgres);
    let environment = [("REDIS_PASSWORD", "redis-secret"), ("REDIS_MAXMEMORY", "64mb")];
    let redis = Redis::by_script(&files().join("config/lingudesk/redis.sh"), "redis-secret", &environment);
    // MinIO's own address for its health, of which the server in its place knows nothing: an object lies there.
    store.aws(&["s3", "mb", "s3://minio"]);
    store.aws(&["s3api", "put-object", "--bucket", "minio", "--key", "health/live", "--acl", "public-read"]);
    let text = |port: u16| port.to_string();
    let operator = Operator::of(&postgres)
        .set("POSTGRES_PORT", &text(postgres.port))
        .set("PGWEIR_PORT", &text(weir.port))
        .set("PGWEIR_HTTP_PORT", &text(weir.http_port))
        .set("MINIO_PORT", &text(store.port))
        .set("REDIS_PORT", &text(redis.port))
        .set("REDIS_PASSWORD", "redis-secret");
    redis.ask(&["SET", "session:1", "here"]);
    redis.ask(&["GET", "session:1"]);
    let told = operator.run(CHECK, &[]);
    assert_eq!(told.code, Some(1), "{told:?}");
    assert!(told.stdout.contains("ALERT  backup      there has been no good one yet"), "{told:?}");
    operator.back_up();
    // Also while a client works, and another does not.
    let mut client = weir.login("lingudesk_content", "db_user", password("DB_PASSWORD"));
    client.query("BEGIN");
    let told = operator.run(CHECK, &[]);
    let line = |name: &str| {
        told.stdout.lines().find(|line| line[7..].starts_with(name)).unwrap_or_default().to_owned()
    };
    for (name, part) in [
        ("postgres", "of 200 connections, lingudesk has"),
        ("pgweir", "ready; clients with a server: "),
        ("minio", "gives 200"),
        ("redis", "1 keys, 100 % hits, snapshot ok, log ok"),
        ("backup", "the last one is 0 hours old"),
    ] {
        assert!(line(name).starts_with("ok ") && line(name).contains(part), "{name}: {told:?}");
    }
    assert!(line("disk").contains("% full") && line("memory").contains("% used"), "{told:?}");
    drop(client);

    let prom = operator.backups.join("backup.prom");
    let published = std::fs::read_to_string(&prom).unwrap();
    for (change, told) in [
        (
            published
                .replace("exit_status{database=\"lingudesk\"} 0", "exit_status{database=\"lingudesk\"} 7"),
            "ALERT  backup      the last one failed with 7",
        ),
        (late(&published), "ALERT  backup      the last one is 30 hours old"),
    ] {
        place::write(&prom, &change);
        let checked = operator.run(CHECK, &[]);
        assert_eq!(checked.code, Some(1));
        assert!(checked.stdout.contains(told), "{checked:?}");
    }
    place::write(&prom, &published);
    let told = operator.run_with(&[("REDIS_PASSWORD", "wrong"), ("MONITOR_PASSWORD", "wrong")], CHECK, &[]);
    assert!(told.stdout.contains("ALERT  redis       down: -WRONGPASS"), "{told:?}");
    assert!(told.stdout.contains("ALERT  pgweir      the console refuses monitor"), "{told:?}");
    postgres.stop();
    let gone = [("PGWEIR_HTTP_PORT", "1"), ("MINIO_PORT", "1"), ("REDIS_PORT", "1")];
    let told = operator.run_with(&gone, CHECK, &[]);
    assert_eq!(told.code, Some(1));
    for service in ["postgres", "pgweir", "redis"] {
        let line = told.stdout.lines().find(|line| line[7..].starts_with(service)).unwrap();
        assert!(line.starts_with("ALERT") && line.contains("down"), "{told:?}");
    }
    assert!(told.stdout.contains("ALERT  minio       /minio/health/live gives no answer"), "{told:?}");
    operator.run(CHECK, &["-v"]).failed(2);
}

/// What would be published, had the last good backup been thirty hours ago.
fn late(published: &str) -> String {
    const NAME: &str = "backup_last_success_timestamp_seconds{database=\"lingudesk\"} ";
    let line = |line: &str| match line.strip_prefix(NAME) {
        Some(time) => format!("{NAME}{}\n", time.parse::<u64>().unwrap() - 30 * 3600),
        None => format!("{line}\n"),
    };
    published.lines().map(line).collect()
}
