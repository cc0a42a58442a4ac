//! Redis, the buckets and the keys, by the scripts that docker-compose.yml runs.

use std::path::Path;
use std::process::Command;

use super::{files, hba, image, password, path, weir_with};
use crate::servers::redis::Redis;
use crate::servers::s3::S3;
use crate::shell;
use crate::support::place;

fn redis(memory: &str) -> Redis {
    let environment = [("REDIS_PASSWORD", password("REDIS_PASSWORD")), ("REDIS_MAXMEMORY", memory)];
    Redis::by_script(&files().join("config/lingudesk/redis.sh"), password("REDIS_PASSWORD"), &environment)
}

#[test]
fn redis_forgets_what_is_oldest_and_survives_a_crash() {
    let mut redis = redis("4mb");
    for (name, value) in
        [("maxmemory-policy", "allkeys-lru"), ("appendonly", "yes"), ("maxmemory", "4194304")]
    {
        assert_eq!(redis.ask(&["CONFIG", "GET", name]), format!("{name}\n{value}"));
    }
    assert_eq!(redis.ask(&["CONFIG", "GET", "save"]), "save\n3600 1 300 100 60 10000");
    let refused = redis.ask_without_password(&["GET", "a"]);
    assert!(refused.contains("NOAUTH"), "{refused}");
    // More than fits: nothing is refused, and something else is forgotten.
    let fill = "for n = 1, 500 do redis.call('SET', ARGV[1] .. n, string.rep('v', 1000)) end";
    for round in 0..16 {
        assert_eq!(redis.ask(&["EVAL", fill, "0", &format!("cache:query:{round}:")]), "");
    }
    let evicted = redis.ask(&["INFO", "stats"]);
    let evicted = evicted.lines().find_map(|line| line.trim().strip_prefix("evicted_keys:")).unwrap();
    assert_ne!(evicted, "0");
    assert_eq!(redis.ask(&["SET", "session:42", "kept"]), "OK");
    redis.crash();
    assert_eq!(redis.ask(&["GET", "session:42"]), "kept", "the log brought it back");
    assert_eq!(redis.ask(&["SAVE"]), "OK");
    assert!(redis.directory().join("dump.rdb").exists(), "and there are snapshots");
}

#[test]
fn redis_does_not_start_without_a_password() {
    let mut command = place::command(files().join("config/lingudesk/redis.sh"));
    let told = shell::run(command.env("PATH", path()).env_remove("REDIS_PASSWORD")).failed(1);
    assert!(told.contains("REDIS_PASSWORD is empty"), "{told}");
}

#[test]
fn the_buckets_have_their_policies_and_lifetime() {
    let store = S3::start();
    let init = |endpoint: &str| {
        let mut command = place::command(files().join("config/lingudesk/minio/init.sh"));
        command.env("PATH", path()).env("S3_ENDPOINT", endpoint).env("AWS_MAX_ATTEMPTS", "1");
        shell::run(command.env("MINIO_ROOT_USER", "admin").env("MINIO_ROOT_PASSWORD", "secret"))
    };
    // As after every restart of the stack: the second time changes nothing.
    init(&store.url()).succeeded();
    init(&store.url()).succeeded();
    let buckets = store.aws(&["s3api", "list-buckets", "--query", "sort(Buckets[].Name)"]);
    assert_eq!(
        buckets.split_whitespace().collect::<Vec<_>>(),
        ["ai-cache", "backups", "media", "static", "temp"]
    );
    for bucket in ["media", "static"] {
        let policy = store.aws(&["s3api", "get-bucket-policy", "--bucket", bucket]);
        assert!(
            policy.contains("s3:GetObject") && policy.contains(&format!("arn:aws:s3:::{bucket}/*")),
            "{policy}"
        );
        assert!(!policy.contains("BUCKET") && !policy.contains("PutObject"), "{policy}");
    }
    for bucket in ["ai-cache", "backups", "temp"] {
        assert!(
            store
                .try_aws(&["s3api", "get-bucket-policy", "--bucket", bucket])
                .stderr
                .contains("NoSuchBucketPolicy")
        );
    }
    let rule = [
        "s3api",
        "get-bucket-lifecycle-configuration",
        "--bucket",
        "temp",
        "--query",
        "Rules[].[Status,Expiration.Days]",
    ];
    assert_eq!(store.aws(&rule).split_whitespace().collect::<Vec<_>>(), ["Enabled", "1"]);
    assert_ne!(init("http://127.0.0.1:1").code, Some(0));
    let mut nothing = place::command(files().join("config/lingudesk/minio/init.sh"));
    let told = shell::run(nothing.env("PATH", path()).env_remove("S3_ENDPOINT")).failed(1);
    assert!(told.contains("S3_ENDPOINT is empty"), "{told}");
}

/// Runs keys.sh on a new set of directories `secrets`, `tls` and `keys`.
fn keys(place: &Path, environment: &[(&str, &str)]) -> shell::Outcome {
    let mut command = place::command(files().join("config/lingudesk/keys.sh"));
    command.env("PATH", path());
    for (name, directory) in [("SECRETS", "secrets"), ("TLS", "tls"), ("KEYS", "keys")] {
        let directory = place.join(directory);
        std::fs::create_dir_all(&directory).unwrap();
        place::give_away(&directory);
        command.env(name, directory);
    }
    shell::run(command.envs(environment.iter().copied()))
}

#[test]
fn production_encrypts_between_clients_pgweir_and_postgresql() {
    let place = place::directory("keys");
    place::write(&place.join("nothing"), "");
    let production = [("CLIENT_TLS_SSLMODE", "require"), ("POSTGRES_SSL", "on"), ("TLS_NAME", "db.example")];
    keys(&place, &production).succeeded();
    let (certificate, key) = (place.join("tls/pgweir.crt"), place.join("tls/pgweir.key"));
    let text = shell::run(Command::new("openssl").args(["x509", "-noout", "-text", "-in"]).arg(&certificate))
        .succeeded();
    assert!(text.contains("DNS:db.example"), "{text}");

    let mut server = image("production");
    let at = |name: &str| place.join("tls").join(name).display().to_string();
    server.options = vec![
        hba("on"),
        "ssl=on".to_owned(),
        format!("ssl_cert_file={}", at("postgres.crt")),
        format!("ssl_key_file={}", at("postgres.key")),
    ];
    let postgres = server.start();
    let tls = [
        ("CLIENT_TLS_SSLMODE", "require"),
        ("CLIENT_TLS_CERT_FILE", certificate.to_str().unwrap()),
        ("CLIENT_TLS_KEY_FILE", key.to_str().unwrap()),
        ("SERVER_TLS_SSLMODE", "require"),
    ];
    let weir = weir_with(&postgres, &tls);
    let psql_at = |port: u16, database: &str, mode: &str, ca: &Path| {
        let address = format!(
            "host=localhost hostaddr=127.0.0.1 port={port} dbname={database} user=db_user sslmode={mode} sslrootcert={}",
            ca.display()
        );
        let mut psql = place::command(place::postgres_program("psql"));
        psql.env("PGPASSWORD", password("DB_PASSWORD")).args(["-X", "-A", "-t", "-d", &address, "-c"]);
        shell::run(psql.arg("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"))
    };
    let psql = |mode: &str, ca: &Path| psql_at(weir.port, "lingudesk_auth", mode, ca);
    assert_eq!(
        psql("require", Path::new("/nonexistent")).succeeded().trim(),
        "t",
        "and the server's side is encrypted, too"
    );
    assert_eq!(psql("verify-full", &certificate).succeeded().trim(), "t");
    let told = psql("disable", &certificate);
    assert!(told.code != Some(0) && told.stderr.contains("SSL required"), "{told:?}");
    // Nor does PostgreSQL itself take a login in the clear.
    let nothing = Path::new("/nonexistent");
    let told = psql_at(postgres.port, "lingudesk", "disable", nothing).failed(2);
    assert!(told.contains("pg_hba.conf rejects connection") && told.contains("no encryption"), "{told}");
    assert_eq!(psql_at(postgres.port, "lingudesk", "require", nothing).succeeded().trim(), "t");
    let _ = std::fs::remove_dir_all(place);
}

#[test]
fn keys_are_laid_where_only_their_users_read_them() {
    use std::os::unix::fs::MetadataExt;
    let place = place::directory("keys");
    assert!(keys(&place, &[]).succeeded().contains("TLS is off"));
    assert!(!place.join("tls/pgweir.key").exists());
    place::write(&place.join("secrets/backup.key"), "AGE-SECRET-KEY-1\n");
    let on = [("CLIENT_TLS_SSLMODE", "require")];
    let told = keys(&place, &on).succeeded();
    assert!(told.contains("self-signed"), "{told}");
    let mode = |name: &str| place.join(name).metadata().unwrap().mode() & 0o777;
    for name in ["keys/backup.key", "tls/pgweir.key", "tls/postgres.key", "tls/self-signed.key"] {
        assert_eq!(mode(name), 0o600, "{name}");
    }
    // The self-signed one is kept, so that who trusts it may go on.
    let first = std::fs::read(place.join("tls/pgweir.crt")).unwrap();
    keys(&place, &on).succeeded();
    assert_eq!(std::fs::read(place.join("tls/pgweir.crt")).unwrap(), first);
    // The operator's own goes before it, once it is right.
    for name in ["server", "other"] {
        let pair = place.join("secrets").join(name).display().to_string();
        let mut openssl = place::command(shell::program("openssl"));
        openssl.args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "30",
        ]);
        openssl.args([
            "-subj",
            "/CN=own.example",
            "-keyout",
            &format!("{pair}.key"),
            "-out",
            &format!("{pair}.crt"),
        ]);
        shell::run(&mut openssl).succeeded();
    }
    assert!(keys(&place, &on).succeeded().contains("own.example"));
    let own = std::fs::read(place.join("secrets/server.crt")).unwrap();
    assert_eq!(std::fs::read(place.join("tls/pgweir.crt")).unwrap(), own);
    std::fs::copy(place.join("secrets/other.key"), place.join("secrets/server.key")).unwrap();
    assert!(keys(&place, &on).failed(1).contains("is not the key of"));
    assert_eq!(std::fs::read(place.join("tls/pgweir.crt")).unwrap(), own, "what works is left alone");
    let _ = std::fs::remove_dir_all(place);
}

#[test]
fn production_says_what_it_misses() {
    let check = |environment: &[(&str, &str)]| {
        let mut command = place::command(files().join("config/lingudesk/production.sh"));
        shell::run(command.envs(environment.iter().copied()))
    };
    let whole = [
        ("COMPOSE_PROFILES", "production"),
        ("CLIENT_TLS_SSLMODE", "require"),
        ("POSTGRES_SSL", "on"),
        ("SERVER_TLS_SSLMODE", "verify-ca"),
        ("BACKUP_ENCRYPTION", "auto"),
        ("BACKUP_AGE_RECIPIENT", "age1qqqq"),
    ];
    check(&whole).succeeded();
    let wrong = [
        ("COMPOSE_PROFILES", "development,production"),
        ("CLIENT_TLS_SSLMODE", "disable"),
        ("POSTGRES_SSL", "off"),
    ];
    let watched = [
        ("COMPOSE_PROFILES", "production,monitoring"),
        ("POSTGRES_EXPORTER_SSLMODE", "require"),
        ("GRAFANA_PASSWORD", "secret"),
    ];
    check(&[&whole[1..], &watched].concat()).succeeded();
    for (name, value) in [("POSTGRES_EXPORTER_SSLMODE", "disable"), ("GRAFANA_PASSWORD", "")] {
        let told = check(&[&whole[1..], &watched, &[(name, value)]].concat()).failed(1);
        assert!(told.contains(name), "{name}: {told}");
    }
    let more = [("SERVER_TLS_SSLMODE", "prefer"), ("BACKUP_ENCRYPTION", "off"), ("BACKUP_AGE_RECIPIENT", "")];
    for (name, value) in wrong.into_iter().chain(more) {
        let mut settings = whole;
        settings.iter_mut().filter(|(known, _)| *known == name).for_each(|setting| setting.1 = value);
        assert!(check(&settings).failed(1).contains(name), "{name}");
    }
}
