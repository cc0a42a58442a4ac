//! Schemas, roles, row-level security, pools and partitions, on real servers.

use super::{Operator, image, password, postgres, weir};
use crate::servers::postgres::Postgres;
use crate::shell;
use crate::support::place;
use crate::support::raw::Raw;

#[test]
fn postgresql_is_tuned_as_documented() {
    let postgres = postgres();
    let wanted = [
        ("max_connections", "200"),
        ("shared_buffers", "256MB"),
        ("effective_cache_size", "1GB"),
        ("work_mem", "4MB"),
        ("log_directory", "log"),
    ];
    for (name, value) in wanted {
        assert_eq!(postgres.execute(&format!("SHOW {name}")), value, "{name}");
    }
    let file = postgres.execute(
        "SELECT string_agg(DISTINCT error, ', ') FROM pg_file_settings WHERE error IS NOT NULL
             AND error <> 'setting could not be applied'",
    );
    assert_eq!(file, "");
}

#[test]
fn six_schemas_have_their_tables() {
    let tables = postgres().execute(
        "SELECT n.nspname || ': ' || string_agg(c.relname, ' ' ORDER BY c.relname)
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND n.nspname !~ '^pg_|^information_schema$'
         GROUP BY n.nspname ORDER BY n.nspname",
    );
    let wanted = "ai: cache_entries plugin_configs usage_logs\n\
        audit: logs\n\
        auth: credentials oauth_accounts refresh_tokens\n\
        content: cards decks languages review_logs\n\
        credit: balances subscriptions transactions\n\
        public: products routing_rules users";
    assert_eq!(tables, wanted);
}

#[test]
fn every_table_of_a_user_has_row_level_security() {
    let open = postgres().execute(
        "SELECT string_agg(c.oid::regclass::text, ' ') FROM pg_class c
             JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'user_id'
         WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition
             AND NOT (c.relrowsecurity AND EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid))",
    );
    assert_eq!(open, "");
}

#[test]
fn production_starts_without_sample_rows() {
    let postgres = image("production").start();
    assert_eq!(postgres.execute("SELECT count(*) FROM public.users"), "0");
    assert_eq!(postgres.execute("SELECT count(*) FROM audit.logs"), "0");
}

#[test]
fn roles_may_do_what_they_need_and_no_more() {
    let postgres = postgres();
    let attributes = postgres.execute(
        "SELECT rolname, rolsuper, rolbypassrls, rolcreaterole, rolcreatedb, rolreplication FROM pg_roles
         WHERE rolname IN ('admin', 'application', 'db_user', 'monitor') ORDER BY 1",
    );
    assert_eq!(attributes, "admin|f|f|f|f|f\napplication|f|f|f|f|f\ndb_user|f|f|f|f|f\nmonitor|f|f|f|f|f");
    let refused = [
        ("db_user", "CREATE TABLE content.mine ()"),
        ("db_user", "CREATE TABLE public.mine ()"),
        ("db_user", "CREATE SCHEMA mine"),
        ("db_user", "UPDATE audit.logs SET action = 'nothing'"),
        ("db_user", "DELETE FROM audit.logs"),
        ("db_user", "SELECT * FROM audit.logs_other"),
        ("db_user", "SELECT audit.maintain(1, 1)"),
        ("db_user", "TRUNCATE content.cards"),
        ("db_user", "ALTER TABLE content.cards DISABLE ROW LEVEL SECURITY"),
        ("db_user", "DROP POLICY own_rows ON content.cards"),
        ("db_user", "SET ROLE admin"),
        ("db_user", "SELECT * FROM pg_authid"),
        ("db_user", "COPY content.cards TO PROGRAM 'cat'"),
        ("monitor", "SELECT * FROM public.users"),
        ("monitor", "SELECT * FROM content.cards"),
        ("admin", "CREATE ROLE other SUPERUSER"),
        ("admin", "SELECT pg_read_file('/etc/passwd')"),
    ];
    let secret = |user: &str| password(if user == "db_user" { "DB_PASSWORD" } else { "ADMIN_PASSWORD" });
    for (user, sql) in refused {
        let secret = if user == "monitor" { password("MONITOR_PASSWORD") } else { secret(user) };
        let told = postgres.login("lingudesk", user, secret).failure(sql);
        assert_eq!(told, "42501", "{user}: {sql}");
    }
    let mut monitor = postgres.login("lingudesk", "monitor", password("MONITOR_PASSWORD"));
    assert_ne!(monitor.value("SELECT count(*) FROM pg_stat_activity WHERE query <> ''"), "0");
    // A role that nobody made cannot come in, and nobody comes in without a password.
    postgres.execute("CREATE ROLE stranger LOGIN PASSWORD 'stranger'");
    let mut stranger = Raw::dial(("127.0.0.1", postgres.port));
    let refused = stranger.login(&[("user", "stranger"), ("database", "lingudesk")], "stranger").unwrap_err();
    assert_eq!(refused.sqlstate(), "42501");
    let mut nameless = Raw::dial(("127.0.0.1", postgres.port));
    let refused = nameless.login(&[("user", "postgres"), ("database", "lingudesk")], "").unwrap_err();
    assert_eq!(refused.sqlstate(), "28P01");
}

#[test]
fn pools_have_their_schemas_sizes_and_modes() {
    let postgres = postgres();
    let weir = weir(&postgres);
    let mut console = weir.login("pgweir", "admin", password("ADMIN_PASSWORD"));
    let mut sizes = Vec::new();
    for row in console.rows("SHOW DATABASES") {
        let (name, size) = (row[0].clone().unwrap(), row[5].clone().unwrap());
        if name.starts_with("lingudesk") {
            sizes.push(format!("{name} {} {size} {:?}", row[3].as_deref().unwrap(), row[9]));
        }
    }
    sizes.sort();
    let wanted = [("admin", 5, true), ("ai", 25, false), ("audit", 10, false), ("auth", 20, false)];
    let wanted = wanted.into_iter().chain([("content", 30, false), ("credit", 15, false)]);
    let wanted: Vec<String> = wanted
        .map(|(name, size, session)| {
            let mode = if session { Some("session") } else { None };
            format!("lingudesk_{name} lingudesk {size} {mode:?}")
        })
        .collect();
    assert_eq!(sizes, wanted);
    for schema in ["auth", "credit", "ai", "content", "audit"] {
        let mut client = weir.login(&format!("lingudesk_{schema}"), "db_user", password("DB_PASSWORD"));
        assert_eq!(
            client.value("SELECT current_schema() || ' ' || current_user"),
            format!("{schema} db_user")
        );
    }
    let mut admin = weir.login("lingudesk_admin", "admin", password("ADMIN_PASSWORD"));
    assert_eq!(admin.value("SELECT current_user"), "admin");
    admin.query("SET statement_timeout = '7s'");
    assert_eq!(admin.value("SHOW statement_timeout"), "7s", "a session keeps its server");
    let mut monitor = weir.login("pgweir", "monitor", password("MONITOR_PASSWORD"));
    assert!(!monitor.rows("SHOW POOLS").is_empty());
    monitor.failure("PAUSE");
}

#[test]
fn lingudesk_serves_its_services_by_psycopg() {
    let postgres = postgres();
    let weir = weir(&postgres);
    let login = ("lingudesk_content", "db_user", password("DB_PASSWORD"));
    shell::run(&mut crate::systems::client("lingudesk.py", &weir, login)).succeeded();
    assert_eq!(postgres.execute("SELECT count(*) FROM content.decks WHERE language_code = 'ja'"), "2");
    assert_eq!(postgres.execute("SELECT count(*) FROM ai.cache_entries"), "1");
    // pg_dump sets what no pooled server may keep: it has the pool in session mode.
    let mut dump = place::command(place::postgres_program("pg_dump"));
    dump.env("PGHOST", "127.0.0.1").env("PGPORT", weir.port.to_string()).env("PGDATABASE", "lingudesk_admin");
    dump.env("PGUSER", "admin").env("PGPASSWORD", password("ADMIN_PASSWORD"));
    let dump = shell::run(&mut dump).succeeded();
    assert!(dump.contains("CREATE POLICY own_rows ON content.decks") && dump.contains("dump complete"));
}

/// A tenant's own transaction: names the user, runs the query, and gives its first value and the server's process.
fn as_user(client: &mut Raw, user: u32, sql: &str) -> (String, String) {
    client.query("BEGIN");
    client.query(&format!("SELECT set_config('app.user_id', '{user}', true)"));
    let answer = (client.value(sql), client.value("SELECT pg_backend_pid()"));
    client.query("COMMIT");
    answer
}

#[test]
fn tenants_on_one_server_connection_never_see_each_others_rows() {
    const TITLES: &str = "SELECT string_agg(title, ', ') FROM decks";
    let postgres = postgres();
    let weir = weir(&postgres);
    let tenant = || weir.login("lingudesk_content", "db_user", password("DB_PASSWORD"));
    let (mut ada, mut grace, mut nobody) = (tenant(), tenant(), tenant());
    let mut servers = std::collections::BTreeSet::new();
    for _ in 0..10 {
        let (titles, server) = as_user(&mut ada, 1, TITLES);
        assert_eq!(titles, "Rivers and weirs");
        servers.insert(server);
        let (titles, server) = as_user(&mut grace, 2, TITLES);
        assert_eq!(titles, "Le marché");
        servers.insert(server);
        assert_eq!(nobody.value("SELECT count(*) FROM decks"), "0");
        assert_eq!(nobody.value("SELECT count(*) FROM public.users"), "0");
        servers.insert(nobody.value("SELECT pg_backend_pid()"));
    }
    assert_eq!(servers.len(), 1, "they were to share one server connection");
    // One who names his user for good, outside of a transaction, leaves it to nobody.
    ada.query("SET app.user_id = '1'");
    assert_eq!(nobody.value("SELECT count(*) FROM decks"), "0");
    assert_eq!(as_user(&mut grace, 2, TITLES).0, "Le marché");
    ada.query("SELECT set_config('app.user_id', '1', false)");
    assert_eq!(nobody.value("SELECT count(*) FROM decks"), "0");
    // Nor can one write into another's rows, or see them through a join.
    grace.query("BEGIN");
    grace.query("SELECT set_config('app.user_id', '2', true)");
    assert_eq!(
        grace.value("SELECT count(*) FROM cards JOIN decks USING (deck_id) WHERE decks.user_id = 1"),
        "0"
    );
    let told =
        grace.failure("INSERT INTO decks (user_id, language_code, title) VALUES (1, 'de', 'Not hers')");
    assert_eq!(told, "42501");
    grace.query("ROLLBACK");
    // One who vanishes in a transaction takes his name along.
    ada.query("BEGIN");
    ada.query("SELECT set_config('app.user_id', '1', true)");
    ada.vanish();
    crate::support::eventually("the server is used again", || {
        nobody.value("SELECT count(*) FROM decks") == "0"
            && postgres.execute("SELECT count(*) FROM pg_stat_activity WHERE state ~ 'in transaction'") == "0"
    });
}

const MAINTENANCE: &str = "backup/maintenance.sh";

fn partitions(postgres: &Postgres) -> String {
    postgres.execute(
        "SELECT string_agg(inhrelid::regclass::text, ' ' ORDER BY inhrelid::regclass::text)
         FROM pg_inherits WHERE inhparent = 'audit.logs'::regclass",
    )
}

#[test]
fn audit_logs_are_partitioned_by_month_ahead_of_time() {
    let postgres = postgres();
    let months = postgres.execute(
        "SELECT string_agg('audit.logs_' || to_char(now() + n * interval '1 month', 'YYYY_MM'), ' ' ORDER BY n)
         FROM generate_series(-1, 3) n",
    );
    assert_eq!(partitions(&postgres), format!("{months} audit.logs_other"));
    // A row without a month is kept, and moves in when its month is made.
    postgres.execute(
        "INSERT INTO audit.logs (logged_at, action) VALUES ('2031-05-17', 'early'), ('2031-06-01', 'later')",
    );
    assert_eq!(postgres.execute("SELECT count(*) FROM audit.logs_other"), "2");
    assert_eq!(postgres.execute("SELECT audit.make_partition('2031-05-31')"), "logs_2031_05");
    assert_eq!(postgres.execute("SELECT audit.make_partition('2031-05-01')"), "logs_2031_05");
    assert_eq!(postgres.execute("SELECT action FROM audit.logs_2031_05"), "early");
    assert_eq!(postgres.execute("SELECT action FROM audit.logs_other"), "later");
    assert_eq!(postgres.execute("SELECT count(*) FROM audit.logs"), "4");
    let plan = postgres.execute("EXPLAIN SELECT * FROM audit.logs WHERE logged_at = '2031-05-17'");
    assert!(plan.contains("logs_2031_05") && !plan.contains("logs_other"), "{plan}");
}

#[test]
fn maintenance_drops_audit_logs_that_are_too_old() {
    let postgres = postgres();
    let operator = Operator::of(&postgres);
    postgres.execute(
        "SELECT audit.make_partition((now() - n * interval '1 month')::date) FROM generate_series(1, 6) n;
         INSERT INTO audit.logs (logged_at, action)
         SELECT date_trunc('month', now()) - n * interval '1 month' + interval '10 days', 'month ' || n
         FROM generate_series(0, 8) n",
    );
    let told = operator.run_with(&[("AUDIT_KEEP_MONTHS", "4")], MAINTENANCE, &[]).succeeded();
    assert!(told.contains("dropped, as older than 4 months: logs_"), "{told}");
    assert!(told.contains("2 rows of logs_other"), "{told}");
    let kept = postgres.execute(
        "SELECT string_agg(action, ', ' ORDER BY logged_at) FROM audit.logs WHERE action ~ '^month'",
    );
    assert_eq!(kept, "month 4, month 3, month 2, month 1, month 0");
    // Again, there is nothing to do.
    let told = operator.run_with(&[("AUDIT_KEEP_MONTHS", "4")], MAINTENANCE, &[]).succeeded();
    assert!(told.contains("months: nothing"), "{told}");
    let told = operator.run_with(&[("AUDIT_KEEP_MONTHS", "0")], MAINTENANCE, &[]).failed(2);
    assert!(told.contains("AUDIT_KEEP_MONTHS"), "{told}");
    operator.run(MAINTENANCE, &["now"]).failed(2);
}
