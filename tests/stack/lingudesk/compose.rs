//! docker-compose.yml, as `docker-compose config` reads it.

use std::collections::BTreeMap;

use crate::compose;
use crate::shell;

const FILE: &str = "docker-compose.yml";
const CONTEXTS: &[&str] = &["backup"];
const PROFILES: &[&[&str]] = &[
    &[],
    &["development"],
    &["production"],
    &["monitoring"],
    &["development", "monitoring"],
    &["production", "monitoring"],
];

/// The services of the profile `monitoring`.
const WATCHERS: &[&str] = &["grafana", "node-exporter", "postgres-exporter", "prometheus", "redis-exporter"];

/// The lines of each service, without their first indentation.
fn services(config: &str) -> BTreeMap<String, String> {
    let mut services = BTreeMap::<String, String>::new();
    let (mut inside, mut name) = (false, String::new());
    for line in config.lines().filter(|line| !line.is_empty()) {
        if !line.starts_with(' ') {
            inside = line == "services:";
        } else if inside && !line.starts_with("   ") {
            name = line.trim().trim_end_matches(':').to_owned();
        } else if inside {
            *services.entry(name.clone()).or_default() += &format!("{}\n", &line[4..]);
        }
    }
    services
}

fn example() -> String {
    let text = std::fs::read_to_string(shell::root().join(".env.example")).unwrap();
    let secret = |line: &str| {
        if line.ends_with("PASSWORD=") { format!("{line}secret\n") } else { format!("{line}\n") }
    };
    text.lines().map(secret).collect()
}

#[test]
fn it_is_valid_with_and_without_env_in_every_profile() {
    for profiles in PROFILES {
        for env in [None, Some(example().as_str())] {
            let read = compose::config(FILE, CONTEXTS, env, profiles);
            assert!(read.stderr.is_empty(), "{profiles:?}: {}", read.stderr);
            read.succeeded();
        }
    }
}

#[test]
fn profiles_add_their_own_tools() {
    // This docker-compose prints every service, whatever the profile.
    let read = compose::config(FILE, CONTEXTS, None, &[]).succeeded();
    let services = services(&read);
    let profile = |name: &str| {
        let lines = services[name].lines().skip_while(|line| *line != "profiles:").skip(1);
        lines.take_while(|line| line.starts_with("- ")).map(|line| line[2..].to_owned()).collect::<Vec<_>>()
    };
    for name in services.keys() {
        let wanted: &[&str] = match name.as_str() {
            "redis-commander" => &["development"],
            "production-check" => &["production"],
            name if WATCHERS.contains(&name) => &["monitoring"],
            _ => &[],
        };
        assert_eq!(profile(name), wanted, "{name}");
    }
}

#[test]
fn every_service_is_limited_pinned_and_watched() {
    let profiles = ["development", "production", "monitoring"];
    let read = compose::config(FILE, CONTEXTS, Some(&example()), &profiles).succeeded();
    let services = services(&read);
    assert_eq!(services.len(), 9 + WATCHERS.len());
    // Those have a health of their own image, or none: Prometheus says whether it reaches them.
    let unwatched = |name: &str| name == "redis-commander" || name.ends_with("-exporter");
    let once = ["keys", "minio-init", "production-check"];
    for (name, text) in &services {
        for line in ["mem_limit: ", "cpus: ", "pids_limit: ", "- no-new-privileges:true", "max-size: 10m"] {
            assert!(text.contains(line), "{name} has no {line}");
        }
        let image = text.lines().find_map(|line| line.strip_prefix("image: ")).expect("an image");
        let tag = image.rsplit_once(':').expect("a tag").1;
        assert!(tag == "local" || tag.chars().any(|it| it.is_ascii_digit()), "{name}: {image} is not pinned");
        if once.contains(&name.as_str()) {
            assert!(!text.contains("restart:") && text.contains("read_only: true"), "{name}");
        } else {
            assert!(text.contains("restart: unless-stopped"), "{name}");
            assert!(text.contains("healthcheck:") || unwatched(name), "{name}");
        }
        let ports: Vec<&str> = text.lines().skip_while(|line| *line != "ports:").skip(1).collect();
        let ports: Vec<&str> = ports.into_iter().take_while(|line| line.starts_with('-')).collect();
        assert!(ports.iter().all(|port| port.contains("127.0.0.1:")), "{name}: {ports:?}");
    }
    assert!(services["backup"].contains("BACKUP_SCHEDULE: 0 3 * * *"));
    for name in ["backup", "minio-init", "node-exporter", "postgres-exporter", "redis-exporter"] {
        assert!(
            services[name].contains("networks:\n  data: null\n") && !services[name].contains("published"),
            "{name}"
        );
    }
    let networks: String = read.split("networks:\n  data:\n").nth(1).unwrap().lines().take(1).collect();
    assert_eq!(networks.trim(), "internal: true");
}

#[test]
fn a_env_of_one_s_own_changes_what_is_published_and_how_much_it_may_take() {
    let env = "BACKUP_DIR=/srv/backup\nBIND_ADDRESS=100.64.0.5\nPGWEIR_PORT=16432\nPOSTGRES_MEMORY=8g\nREDIS_IMAGE=redis:8\nDB_USER=app\n";
    let read = compose::config(FILE, CONTEXTS, Some(env), &["development"]).succeeded();
    let services = services(&read);
    assert!(services["pgweir"].contains("100.64.0.5:16432:6432"), "{}", services["pgweir"]);
    assert!(services["postgres"].contains("mem_limit: 8g"));
    assert!(services["redis"].contains("image: redis:8"));
    assert!(services["backup"].contains("/srv/backup:/backup"));
    for name in ["postgres", "pgweir"] {
        assert!(services[name].contains("DB_USER: app"), "{name}");
    }
    assert!(services["redis-commander"].contains("127.0.0.1:8081:8081"), "a tool that shows data stays here");
}

/// Names in ${…} of the compose file are those that .env.example explains, and the other way round.
#[test]
fn the_example_explains_every_setting() {
    let compose = std::fs::read_to_string(shell::root().join(FILE)).unwrap();
    let mut used: Vec<&str> = Vec::new();
    for part in compose.split("${").skip(1) {
        let end = part.find([':', '}']).expect("an end");
        let name = &part[..end];
        if !name.is_empty()
            && name.chars().all(|it| it.is_ascii_uppercase() || it.is_ascii_digit() || it == '_')
        {
            used.push(name);
        }
    }
    let example = std::fs::read_to_string(shell::root().join(".env.example")).unwrap();
    let explained: Vec<String> = example
        .lines()
        .filter_map(|line| line.trim_start_matches('#').split_once('=').map(|(name, _)| name.to_owned()))
        .filter(|name| !name.contains(' '))
        .collect();
    for name in &used {
        assert!(explained.iter().any(|it| it == name), "{name} is not in .env.example");
    }
    for name in &explained {
        assert!(used.contains(&name.as_str()) || name == "COMPOSE_PROJECT_NAME", "{name} is not used");
    }
}
