//! Real drivers, unchanged, through pgweir in transaction and in session mode.
//!
//! The Python and Node.js ones are scripts in `tests/drivers`, which print `ok NAME` for each thing they tried.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use futures_util::{StreamExt, TryStreamExt, future};
use tokio_postgres::types::ToSql;
use tokio_postgres::{AsyncMessage, Client, NoTls};

use crate::support::place;
use crate::support::prelude::*;

/// A pooler whose clients log in with a password; `app`'s is `app-secret`.
fn pooler(mode: &str) -> Pooler {
    Setup::of(Cluster::shared())
        .set("auth_type", "\"scram-sha-256\"")
        .set("pool_mode", &format!("{mode:?}"))
        .set("default_pool_size", "5")
        .set("max_client_conn", "500")
        .start()
}

/// The project's directory.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Where `scripts/drivers.sh` puts the drivers; it is run where they are missing or outdated.
pub fn drivers() -> &'static Path {
    static DRIVERS: OnceLock<PathBuf> = OnceLock::new();
    DRIVERS.get_or_init(|| {
        let output = Command::new(root().join("scripts/drivers.sh")).output().expect("bash runs");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "scripts/drivers.sh failed: {text}");
        // As in scripts/common.sh; a test's own file lies in target/debug/deps.
        let target =
            std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
        target.join("drivers")
    })
}

/// Runs a script of `tests/drivers` through a pooler in this mode.
fn run_script(name: &str, mode: &str) {
    let pooler = pooler(mode);
    let script = root().join("tests/drivers").join(name);
    let mut command = match script.extension().and_then(|extension| extension.to_str()) {
        Some("py") => Command::new(drivers().join("venv/bin/python")),
        _ => Command::new("node"),
    };
    command
        .arg(&script)
        .current_dir(root().join("tests/drivers"))
        .env("PGWEIR_HOST", "127.0.0.1")
        .env("PGWEIR_PORT", pooler.port.to_string())
        .env("PGWEIR_USER", "app")
        .env("PGWEIR_PASSWORD", "app-secret")
        .env("PGWEIR_DATABASE", "app")
        .env("PGWEIR_MODE", mode)
        .env("PGWEIR_MARK", Cluster::shared().unique(mode))
        .env("PGWEIR_NODE_MODULES", drivers().join("node/node_modules"))
        .env("PYTHONDONTWRITEBYTECODE", "1");
    finish(&mut command);
}

/// Runs a command that must succeed, for what it prints.
#[track_caller]
pub fn finish(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}\n{stdout}\n{stderr}");
    stdout
}

#[test]
fn psycopg_in_transaction_mode() {
    run_script("psycopg_test.py", "transaction");
}

#[test]
fn psycopg_in_session_mode() {
    run_script("psycopg_test.py", "session");
}

#[test]
fn asyncpg_in_transaction_mode() {
    run_script("asyncpg_test.py", "transaction");
}

#[test]
fn asyncpg_in_session_mode() {
    run_script("asyncpg_test.py", "session");
}

#[test]
fn sqlalchemy_in_transaction_mode() {
    run_script("sqlalchemy_test.py", "transaction");
}

#[test]
fn django_in_transaction_mode() {
    run_script("django_test.py", "transaction");
}

#[test]
fn node_postgres_in_transaction_mode() {
    run_script("pg_test.mjs", "transaction");
}

#[test]
fn node_postgres_in_session_mode() {
    run_script("pg_test.mjs", "session");
}

#[test]
fn postgres_js_in_transaction_mode() {
    run_script("postgresjs_test.mjs", "transaction");
}

#[test]
fn postgres_js_in_session_mode() {
    run_script("postgresjs_test.mjs", "session");
}

/// One of PostgreSQL's own programs, told to come to this pooler.
fn program(name: &str, pooler: &Pooler, database: &str) -> Command {
    let mut command = place::command(place::postgres_program(name));
    command.env("PGHOST", "127.0.0.1").env("PGPORT", pooler.port.to_string());
    command.env("PGUSER", "app").env("PGPASSWORD", "app-secret").env("PGDATABASE", database);
    command
}

#[test]
fn psql_works() {
    for mode in ["transaction", "session"] {
        let pooler = pooler(mode);
        let psql = |arguments: &[&str]| finish(program("psql", &pooler, "app").arg("-XAt").args(arguments));
        assert_eq!(psql(&["-c", "SELECT 40 + 2"]), "42\n");
        assert_eq!(psql(&["-c", "BEGIN; SELECT 1; COMMIT", "-c", "SELECT 2"]), "BEGIN\n1\nCOMMIT\n2\n");
        let described = psql(&["-c", "\\dn", "-c", "\\du app", "-c", "\\l app"]);
        assert!(described.contains("public") && described.contains("app"), "{described}");
        assert_eq!(psql(&["-c", "\\copy (SELECT generate_series(1, 3)) TO STDOUT"]), "1\n2\n3\n");
    }
}

#[test]
fn psql_is_at_home_on_the_console() {
    let pooler = pooler("transaction");
    for database in ["pgbouncer", "pgweir"] {
        let mut psql = program("psql", &pooler, database);
        psql.env("PGUSER", "admin").env("PGPASSWORD", "admin-secret").arg("-X");
        let pools = finish(psql.args(["-c", "SHOW POOLS", "-c", "SHOW VERSION", "-c", "SHOW HELP"]));
        assert!(pools.contains("cl_waiting") && pools.contains("PgBouncer 1.25"), "{pools}");
    }
}

#[test]
fn pg_dump_works_in_session_mode() {
    let pooler = pooler("session");
    let dump = finish(program("pg_dump", &pooler, "app").arg("--schema-only"));
    assert!(dump.contains("PostgreSQL database dump complete"));
    finish(program("pg_isready", &pooler, "app").arg("-q"));
}

#[test]
fn pgbench_runs_in_every_mode() {
    let pooler = pooler("transaction");
    let pgbench = |arguments: &[&str]| {
        let printed = finish(program("pgbench", &pooler, "app2").args(arguments));
        assert!(!printed.contains("aborted"), "{printed}");
        printed
    };
    finish(program("pgbench", &pooler, "app2").args(["-i", "-s", "2", "-q"]));
    for protocol in ["simple", "extended", "prepared"] {
        let printed = pgbench(&["-M", protocol, "-S", "-c", "20", "-j", "2", "-t", "100"]);
        assert!(printed.contains("number of transactions actually processed: 2000/2000"), "{printed}");
        // A thread a client: pgbench waits for the answer to a Parse with all clients of a thread, also of those that
        // hold the servers in their transactions.
        let printed = pgbench(&["-M", protocol, "-c", "10", "-j", "10", "-t", "30"]);
        assert!(printed.contains("number of transactions actually processed: 300/300"), "{printed}");
    }
    let printed = pgbench(&["-C", "-S", "-c", "5", "-t", "30"]);
    assert!(printed.contains("150/150"), "{printed}");
    let printed = pgbench(&["-M", "prepared", "-S", "-c", "200", "-j", "2", "-t", "20"]);
    assert!(printed.contains("4000/4000"), "{printed}");
    assert!(pooler.port > 0);
    let mut admin = pooler.dial();
    admin.login(&[("user", "admin"), ("database", "pgbouncer")], "admin-secret").unwrap();
    assert!(admin.rows("SHOW SERVERS").len() <= 10);
}

/// A tokio-postgres client and the messages that come of themselves.
async fn tokio_client(pooler: &Pooler) -> (Client, impl futures_util::Stream<Item = AsyncMessage> + use<>) {
    let config = format!("host=127.0.0.1 port={} user=app password=app-secret dbname=app", pooler.port);
    let (client, mut connection) = tokio_postgres::connect(&config, NoTls).await.unwrap();
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut messages = futures_util::stream::poll_fn(move |context| connection.poll_message(context));
        while let Some(Ok(message)) = messages.next().await {
            let _ = sender.send(message);
        }
    });
    let received = futures_util::stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|message| (message, receiver))
    });
    (client, Box::pin(received))
}

#[tokio::test]
async fn tokio_postgres_in_transaction_mode() {
    let pooler = pooler("transaction");
    let (mut client, _messages) = tokio_client(&pooler).await;
    let (other, _other_messages) = tokio_client(&pooler).await;
    let sum = client.prepare("SELECT $1::int + $2::int").await.unwrap();
    for n in 0..20 {
        let row = client.query_one(&sum, &[&n, &2]).await.unwrap();
        assert_eq!(row.get::<_, i32>(0), n + 2);
        other.query_one("SELECT $1::text", &[&"other"]).await.unwrap();
    }
    // Queries in flight at once go out as one pipeline.
    let one = |n: i32| {
        let (client, sum) = (&client, &sum);
        async move {
            let values: [&(dyn ToSql + Sync); 2] = [&n, &1];
            client.query_one(sum, &values).await.unwrap().get::<_, i32>(0)
        }
    };
    let sums = future::join_all((0..200).map(one)).await;
    assert_eq!(sums, (1..=200).collect::<Vec<_>>());
    let table = Cluster::shared().unique("tokio_postgres");
    client.batch_execute(&format!("CREATE TABLE {table} (n int PRIMARY KEY, t text)")).await.unwrap();
    let transaction = client.transaction().await.unwrap();
    transaction.execute(&format!("INSERT INTO {table} VALUES (1, 'one')"), &[]).await.unwrap();
    let rows: Vec<_> = transaction
        .query_raw("SELECT generate_series(1, 1000)", [0_i32; 0])
        .await
        .unwrap()
        .try_collect()
        .await
        .unwrap();
    assert_eq!(rows.len(), 1000);
    transaction.rollback().await.unwrap();
    let error = client.query("SELECT 1/$1::int", &[&0]).await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "22012");
    let sink = client.copy_in::<_, bytes::Bytes>(&format!("COPY {table} FROM STDIN")).await.unwrap();
    let lines = (0..10_000).map(|n| Ok(bytes::Bytes::from(format!("{n}\tcopied\n"))));
    futures_util::stream::iter(lines).forward(sink).await.unwrap();
    let copied: Vec<_> =
        client.copy_out(&format!("COPY {table} TO STDOUT")).await.unwrap().try_collect().await.unwrap();
    assert_eq!(copied.len(), 10_000);
    let token = client.cancel_token();
    let sleep = format!("SELECT pg_sleep(30) AS {table}");
    let running = format!("state = 'active' AND query = '{sleep}'");
    let cancel = async {
        let runs = move || eventually("the query runs", || Cluster::shared().connections(&running) == 1);
        tokio::task::spawn_blocking(runs).await.unwrap();
        token.cancel_query(NoTls).await.unwrap();
    };
    let (slept, ()) = future::join(client.batch_execute(&sleep), cancel).await;
    assert_eq!(slept.unwrap_err().code().unwrap().code(), "57014");
    client.batch_execute(&format!("DROP TABLE {table}")).await.unwrap();
}

#[tokio::test]
async fn tokio_postgres_in_session_mode() {
    let pooler = pooler("session");
    let (client, mut messages) = tokio_client(&pooler).await;
    let (other, _messages) = tokio_client(&pooler).await;
    let channel = Cluster::shared().unique("channel");
    client.batch_execute(&format!("LISTEN {channel}; SET statement_timeout = '77s'")).await.unwrap();
    other.batch_execute(&format!("NOTIFY {channel}, 'payload'")).await.unwrap();
    let message = tokio::time::timeout(crate::support::PATIENCE, messages.next()).await.unwrap();
    let Some(AsyncMessage::Notification(notification)) = message else { panic!("{message:?}") };
    assert_eq!(notification.payload(), "payload");
    let row = client.query_one("SHOW statement_timeout", &[]).await.unwrap();
    assert_eq!(row.get::<_, String>(0), "77s");
}

/// sqlx's pool in front of ours: it prepares everything under a name of its own.
async fn sqlx_pool(pooler: &Pooler, connections: u32) -> sqlx::PgPool {
    let options = sqlx::postgres::PgConnectOptions::new()
        .host("127.0.0.1")
        .port(pooler.port)
        .username("app")
        .password("app-secret")
        .database("app")
        .application_name("sqlx's");
    sqlx::postgres::PgPoolOptions::new().max_connections(connections).connect_with(options).await.unwrap()
}

async fn sqlx_works(mode: &str) {
    let pooler = pooler(mode);
    let pool = sqlx_pool(&pooler, if mode == "session" { 4 } else { 20 }).await;
    let doubles = (0..300_i32).map(|n| {
        let pool = pool.clone();
        async move { sqlx::query_scalar::<_, i32>("SELECT $1 * 2").bind(n).fetch_one(&pool).await.unwrap() }
    });
    assert_eq!(future::join_all(doubles).await, (0..300).map(|n| n * 2).collect::<Vec<_>>());
    // More texts than either side keeps prepared.
    for n in 0..300 {
        let text = format!("SELECT $1 + {n}");
        let sum = sqlx::query_scalar::<_, i32>(sqlx::AssertSqlSafe(text))
            .bind(1_i32)
            .fetch_one(&pool)
            .await
            .unwrap();
        assert_eq!(sum, n + 1);
    }
    let table = Cluster::shared().unique("sqlx");
    let run = async |text: String| sqlx::raw_sql(sqlx::AssertSqlSafe(text)).execute(&pool).await.unwrap();
    run(format!("CREATE TABLE {table} (n int PRIMARY KEY, t text)")).await;
    let insert = format!("INSERT INTO {table} VALUES ($1, $2)");
    let mut transaction = pool.begin().await.unwrap();
    for n in 0..50_i32 {
        let insert = sqlx::query(sqlx::AssertSqlSafe(insert.clone())).bind(n).bind("in a transaction");
        insert.execute(&mut *transaction).await.unwrap();
    }
    let again = sqlx::query(sqlx::AssertSqlSafe(insert.clone())).bind(1_i32).bind("again");
    let error = again.execute(&mut *transaction).await.unwrap_err();
    assert_eq!(error.as_database_error().unwrap().code().as_deref(), Some("23505"));
    transaction.rollback().await.unwrap();
    let count = sqlx::query_scalar::<_, i64>(sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {table}")));
    assert_eq!(count.fetch_one(&pool).await.unwrap(), 0);
    let mut rows = sqlx::query_scalar::<_, String>("SELECT repeat('x', 1000) FROM generate_series(1, 5000)")
        .fetch(&pool);
    let mut seen = 0;
    while let Some(row) = rows.try_next().await.unwrap() {
        assert_eq!(row.len(), 1000);
        seen += 1;
    }
    assert_eq!(seen, 5000);
    drop(rows);
    let name = sqlx::query_scalar::<_, String>("SHOW application_name").fetch_one(&pool).await.unwrap();
    assert_eq!(name, "sqlx's");
    let zero = sqlx::query_scalar::<_, i32>("SELECT 1 / $1").bind(0_i32).fetch_one(&pool).await.unwrap_err();
    assert_eq!(zero.as_database_error().unwrap().code().as_deref(), Some("22012"));
    run(format!("DROP TABLE {table}")).await;
    pool.close().await;
}

#[tokio::test]
async fn sqlx_in_transaction_mode() {
    sqlx_works("transaction").await;
}

#[tokio::test]
async fn sqlx_in_session_mode() {
    sqlx_works("session").await;
}
