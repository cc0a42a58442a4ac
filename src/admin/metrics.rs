//! What `/metrics` says.
//!
//! Owns the names: those of prometheus-community's pgbouncer_exporter, before and after its 0.11, so that dashboards
//! and alerts made for it go on working, and `pgweir_…` for what it does not have. Counters and gauges go through a
//! fresh recorder at each scrape, so that a pool that is gone leaves nothing behind.
//!
//! Two kinds are written here and not by the recorder: counters of seconds, which would have to be whole numbers
//! there, and histograms, to which it would have to be given every single query again.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::SystemTime;

use metrics::{Key, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};

use super::show::{self, PoolCounts};
use super::{Activity, View};
use crate::config::PoolMode;
use crate::ids::PoolKey;
use crate::stats::{BOUNDS_US, ClientState, Field, ServerState, Snapshot, Totals};

const METADATA: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, Some(module_path!()));

type Labels<'a> = [(&'static str, &'a str)];

/// All metrics in Prometheus's text format.
pub(super) fn render(view: &View) -> String {
    let recorder = PrometheusBuilder::new().build_recorder();
    let mut text = Exposition::default();
    process(&recorder, view);
    lists(&recorder, view);
    databases(&recorder, view);
    pools(&recorder, view);
    database_stats(&recorder, &mut text, view);
    pool_stats(&recorder, &mut text, view);
    recorder.handle().render() + &text.finish()
}

fn labels(labels: &Labels<'_>) -> Vec<Label> {
    labels.iter().map(|(name, value)| Label::new(*name, (*value).to_owned())).collect()
}

/// An application's name without the host and port that `application_name_add_host` has put behind it, of which PostgreSQL
/// may have cut the end.
fn without_host<'a>(name: &'a str, host: &str) -> &'a str {
    match name.rsplit_once(" - ") {
        Some((name, end)) if host.starts_with(end) => name,
        _ => name,
    }
}

fn gauge(recorder: &PrometheusRecorder, name: &str, help: &'static str, of: &Labels<'_>, value: f64) {
    recorder.describe_gauge(name.to_owned().into(), None, help.into());
    recorder.register_gauge(&Key::from_parts(name.to_owned(), labels(of)), &METADATA).set(value);
}

fn counter(recorder: &PrometheusRecorder, name: &str, help: &'static str, of: &Labels<'_>, value: u64) {
    recorder.describe_counter(name.to_owned().into(), None, help.into());
    recorder.register_counter(&Key::from_parts(name.to_owned(), labels(of)), &METADATA).absolute(value);
}

/// Counts are far below 2^53, where `f64` ceases to be exact.
#[expect(clippy::cast_precision_loss, reason = "see above")]
fn float(value: u64) -> f64 {
    value as f64
}

fn size(value: usize) -> f64 {
    float(value as u64)
}

fn seconds(micros: u64) -> f64 {
    float(micros) / 1e6
}

fn process(recorder: &PrometheusRecorder, view: &View) {
    let settings = &view.config.settings;
    let unix =
        |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    gauge(recorder, "pgbouncer_up", "Whether the pooler answers: always 1.", &[], 1.0);
    let version = [("version", super::VERSION)];
    gauge(recorder, "pgbouncer_version_info", "What SHOW VERSION says.", &version, 1.0);
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    gauge(recorder, "pgweir_build_info", "pgweir's own version.", &version, 1.0);
    gauge(
        recorder,
        "pgbouncer_config_max_client_connections",
        "The setting max_client_conn.",
        &[],
        size(settings.max_client_conn),
    );
    gauge(
        recorder,
        "pgbouncer_config_max_user_connections",
        "The setting max_user_connections.",
        &[],
        size(settings.max_user_connections),
    );
    gauge(
        recorder,
        "pgweir_start_time_seconds",
        "When the process started, in seconds since 1970.",
        &[],
        unix(view.roster.started()),
    );
    gauge(
        recorder,
        "pgweir_workers_at_work",
        "Worker threads that share the clients at present.",
        &[],
        f64::from(view.workers_at_work),
    );
    gauge(
        recorder,
        "pgweir_paused",
        "1 during PAUSE and SUSPEND of all databases.",
        &[],
        f64::from(u8::from(view.activity != Activity::Active)),
    );
    for certificate in &view.certificates {
        gauge(
            recorder,
            "pgweir_certificate_expiry_seconds",
            "When a TLS certificate ceases to be valid, in seconds since 1970.",
            &[("setting", certificate.setting)],
            unix(certificate.expires),
        );
    }
}

fn lists(recorder: &PrometheusRecorder, view: &View) {
    for (list, items) in show::list_items(view) {
        let (name, help) = match list {
            "databases" => ("pgbouncer_databases", "Databases."),
            "users" => ("pgbouncer_users", "Users."),
            "pools" => ("pgbouncer_pools", "Pools."),
            "free_clients" => ("pgbouncer_free_clients", "Unused client slots kept in memory."),
            "used_clients" => ("pgbouncer_used_clients", "Client connections."),
            "login_clients" => ("pgbouncer_login_clients", "Clients that are logging in."),
            "free_servers" => ("pgbouncer_free_servers", "Unused server slots kept in memory."),
            "used_servers" => ("pgbouncer_used_servers", "Server connections."),
            "dns_names" => ("pgbouncer_cached_dns_names", "Host names in the cache."),
            "dns_zones" => ("pgbouncer_cached_dns_zones", "DNS zones in the cache."),
            "dns_queries" => ("pgbouncer_in_flight_dns_queries", "Host names being looked up."),
            _ => continue,
        };
        gauge(recorder, name, help, &[], size(items));
    }
    let mut clients: BTreeMap<_, usize> = BTreeMap::new();
    for client in view.roster.clients() {
        let Some(login) = client.login() else { continue };
        let name = client.application_name().unwrap_or_default();
        // What `application_name_add_host` adds would make a series of each connection.
        let name = without_host(&name, &client.connected.peer.to_string()).to_owned();
        let state = show::client_state(&client);
        *clients.entry((login.pool.database.clone(), login.user.clone(), name, state)).or_default() += 1;
    }
    for ((database, user, application_name, state), count) in &clients {
        let of = [
            ("database", database.as_str()),
            ("user", user.as_str()),
            ("application_name", application_name),
            ("state", *state),
        ];
        gauge(
            recorder,
            "pgbouncer_client_connections",
            "Client connections by who they are.",
            &of,
            size(*count),
        );
    }
}

/// Columns of SHOW DATABASES that are gauges, and their names and help texts.
const DATABASE_GAUGES: &[(&str, &str, &str)] = &[
    ("pool_size", "pgbouncer_databases_pool_size", "Most servers of a pool of the database."),
    ("reserve_pool_size", "pgbouncer_databases_reserve_pool", "Servers beyond pool_size in need."),
    ("max_connections", "pgbouncer_databases_max_connections", "Most servers of the database; 0: no limit."),
    ("current_connections", "pgbouncer_databases_current_connections", "Servers of the database."),
    (
        "max_client_connections",
        "pgbouncer_databases_max_client_connections",
        "Most clients of the database; 0: no limit.",
    ),
    (
        "current_client_connections",
        "pgbouncer_databases_current_client_connections",
        "Clients of the database.",
    ),
    ("paused", "pgbouncer_databases_paused", "1 if the database is paused."),
    ("disabled", "pgbouncer_databases_disabled", "1 if the database is disabled."),
];

fn databases(recorder: &PrometheusRecorder, view: &View) {
    let table = show::Topic::Databases.table(view);
    let column = |name: &str| table.columns.iter().position(|it| it.name == name);
    for row in &table.rows {
        let text = |name: &str| {
            column(name).and_then(|at| row[at].text()).map(|it| it.into_owned()).unwrap_or_default()
        };
        let texts =
            ["name", "host", "port", "database", "force_user", "pool_mode"].map(|name| (name, text(name)));
        let of: Vec<(&'static str, &str)> = texts.iter().map(|(name, text)| (*name, text.as_str())).collect();
        for (name, metric, help) in DATABASE_GAUGES {
            gauge(recorder, metric, help, &of, text(name).parse().unwrap_or(0.0));
        }
    }
}

/// A pool's gauge: its name after `pgbouncer_pools_`, its help, its value.
type PoolGauge = (&'static str, &'static str, fn(&PoolCounts) -> u32);

const POOL_GAUGES: &[PoolGauge] = &[
    ("client_active_connections", "Clients that have a server or want none now.", |it| {
        it.clients(ClientState::Active)
    }),
    ("client_waiting_connections", "Clients that wait for a server.", |it| it.clients(ClientState::Waiting)),
    ("client_active_cancel_connections", "Cancel requests on their way.", |it| {
        it.clients(ClientState::ActiveCancelRequest)
    }),
    ("client_waiting_cancel_connections", "Cancel requests that wait.", |it| {
        it.clients(ClientState::WaitingCancelRequest)
    }),
    ("server_active_connections", "Servers that have a client.", |it| it.servers(ServerState::Active)),
    ("server_active_cancel_connections", "Connections that carry a cancel request.", |it| {
        it.servers(ServerState::ActiveCancel)
    }),
    ("server_being_canceled_connections", "Servers held for cancel requests.", |it| {
        it.servers(ServerState::BeingCanceled)
    }),
    ("server_idle_connections", "Servers that are free.", |it| it.servers(ServerState::Idle)),
    ("server_used_connections", "Servers to be tested before use.", |it| it.servers(ServerState::Used)),
    ("server_testing_connections", "Servers being reset or tested.", |it| it.servers(ServerState::Tested)),
    ("server_login_connections", "Servers being connected.", |it| it.servers(ServerState::Login)),
];

fn pools(recorder: &PrometheusRecorder, view: &View) {
    for (key, counts) in &show::pool_counts(view) {
        let of = [("database", key.database.as_str()), ("user", key.user.as_str())];
        for (name, help, value) in POOL_GAUGES {
            gauge(recorder, &format!("pgbouncer_pools_{name}"), help, &of, f64::from(value(counts)));
        }
        let help = "How long the client that waits longest has been waiting.";
        gauge(recorder, "pgbouncer_pools_client_maxwait_seconds", help, &of, seconds(counts.max_wait_us));
        if let Some(count) = counts.prepared {
            // Nothing limits it.
            let help = "Names of prepared statements that the pool's clients have.";
            gauge(recorder, "pgweir_client_prepared_statements", help, &of, float(count));
        }
        let settings = view.config.pool_settings(key);
        gauge(
            recorder,
            "pgweir_pool_size",
            "Most servers of the pool; 0: no limit.",
            &of,
            size(settings.size),
        );
        if settings.mode == PoolMode::Session {
            gauge(recorder, "pgweir_pool_session_mode", "1 for pools in session mode.", &of, 1.0);
        }
    }
}

/// A figure of SHOW STATS under the exporter's name.
type StatsFigure = (&'static str, fn(&Totals) -> u64);

/// The exporter's names of whole numbers, after `pgbouncer_stats_totals_` and `pgbouncer_stats_`.
const STATS_COUNTERS: &[StatsFigure] = &[
    ("queries_pooled_total", |it| it.query_count),
    ("queries_total", |it| it.query_count),
    ("received_bytes_total", |it| it.bytes_received),
    ("sent_bytes_total", |it| it.bytes_sent),
    ("sql_transactions_pooled_total", |it| it.xact_count),
    ("client_parses_total", |it| it.client_parse_count),
    ("server_parses_total", |it| it.server_parse_count),
    ("binds_total", |it| it.bind_count),
    ("server_assignments_total", |it| it.server_assignment_count),
];

/// Those of seconds.
const STATS_SECONDS: &[StatsFigure] = &[
    ("queries_duration_seconds_total", |it| it.query_time),
    ("client_wait_seconds_total", |it| it.wait_time),
    ("server_in_transaction_seconds_total", |it| it.xact_time),
];

fn database_stats(recorder: &PrometheusRecorder, text: &mut Exposition, view: &View) {
    const HELP: &str = "As the column of SHOW STATS.";
    for (database, (totals, _)) in &show::per_database(view) {
        let of = [("database", database.as_str())];
        for prefix in ["pgbouncer_stats_totals_", "pgbouncer_stats_"] {
            for (name, value) in STATS_COUNTERS {
                counter(recorder, &format!("{prefix}{name}"), HELP, &of, value(totals));
            }
            for (name, value) in STATS_SECONDS {
                text.seconds_counter(&format!("{prefix}{name}"), HELP, &of, value(totals));
            }
        }
    }
}

/// `xact_time` is `pgweir_xact_seconds_total`, `bind_count` is `pgweir_bind_total`.
fn own_name(field: &Field) -> String {
    match field.name.strip_suffix("_time") {
        Some(stem) => format!("pgweir_{stem}_seconds_total"),
        None => format!("pgweir_{}_total", field.name.strip_suffix("_count").unwrap_or(field.name)),
    }
}

fn pool_stats(recorder: &PrometheusRecorder, text: &mut Exposition, view: &View) {
    for (PoolKey { database, user }, stats) in &view.pools {
        let of = [("database", database.as_str()), ("user", user.as_str())];
        let totals = stats.totals();
        for field in Totals::FIELDS {
            let (name, value) = (own_name(field), (field.value)(&totals));
            if field.name.ends_with("_time") {
                text.seconds_counter(&name, field.help, &of, value);
            } else {
                counter(recorder, &name, field.help, &of, value);
            }
        }
        let histograms = stats.histograms();
        text.histogram("pgweir_wait_seconds", "How long clients waited for a server.", &of, &histograms.wait);
        text.histogram("pgweir_query_seconds", "How long queries took.", &of, &histograms.query);
        let help = "How long transactions took.";
        text.histogram("pgweir_transaction_seconds", help, &of, &histograms.transaction);
    }
}

/// Text format of what the recorder cannot hold: families by name, each with its samples.
#[derive(Default)]
struct Exposition(BTreeMap<String, (String, String)>);

impl Exposition {
    fn family(&mut self, name: &str, help: &str, kind: &str) -> &mut String {
        let head = || (format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"), String::new());
        &mut self.0.entry(name.to_owned()).or_insert_with(head).1
    }

    fn seconds_counter(&mut self, name: &str, help: &str, of: &Labels<'_>, micros: u64) {
        let samples = self.family(name, help, "counter");
        put(samples, format_args!("{name}{} {}", braced(of, None), seconds(micros)));
    }

    fn histogram(&mut self, name: &str, help: &str, of: &Labels<'_>, snapshot: &Snapshot) {
        let samples = self.family(name, help, "histogram");
        let mut count = 0;
        let bounds = BOUNDS_US.iter().map(|it| seconds(*it).to_string()).chain(["+Inf".to_owned()]);
        for (bound, bucket) in bounds.zip(&snapshot.buckets) {
            count += bucket.count;
            put(samples, format_args!("{name}_bucket{} {count}", braced(of, Some(&bound))));
        }
        put(samples, format_args!("{name}_sum{} {}", braced(of, None), seconds(snapshot.sum_us())));
        put(samples, format_args!("{name}_count{} {count}", braced(of, None)));
    }

    fn finish(self) -> String {
        self.0.into_values().map(|(head, samples)| head + &samples + "\n").collect()
    }
}

fn put(samples: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = writeln!(samples, "{line}");
}

fn braced(of: &Labels<'_>, bound: Option<&str>) -> String {
    let all = of.iter().copied().chain(bound.map(|it| ("le", it)));
    let all: Vec<String> = all.map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
    if all.is_empty() { String::new() } else { format!("{{{}}}", all.join(",")) }
}

/// Label values: the three escapes of Prometheus's text format.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_behind_a_name_is_taken_off() {
        let host = "192.168.100.200:54321";
        for (name, expected) in [
            ("app - 192.168.100.200:54321", "app"),
            ("a long name, cut by PostgreSQL - 192.168.100.2", "a long name, cut by PostgreSQL"),
            ("app - 192.168.100.201:54321", "app - 192.168.100.201:54321"),
            ("a - b", "a - b"),
            ("app", "app"),
        ] {
            assert_eq!(without_host(name, host), expected);
        }
    }

    #[test]
    fn every_figure_has_a_metric_of_its_own() {
        let mut names: Vec<String> = Totals::FIELDS.iter().map(own_name).collect();
        names.sort();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count, "{names:?}");
        assert!(names.contains(&"pgweir_query_seconds_total".to_owned()), "{names:?}");
    }

    #[test]
    fn label_values_are_escaped() {
        assert_eq!(braced(&[("a", "x\"y\\z\n")], Some("1")), r#"{a="x\"y\\z\n",le="1"}"#);
        assert_eq!(braced(&[], None), "");
    }
}
