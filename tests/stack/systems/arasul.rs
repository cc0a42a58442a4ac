//! Arasul: services that share one server under a cap, nine migrations, what is past its time goes.

use std::path::Path;

use super::{client, program, setting};
use crate::servers::postgres::{Image, Postgres};
use crate::servers::weir::Weir;
use crate::shell;
use crate::support::message::query;
use crate::support::place;
use crate::support::raw::Raw;

const PASSWORD: &str = "arasul's password";

#[test]
fn arasul_migrates_pools_and_forgets() {
    let config = shell::copy_of(&["config/arasul"]).join("config/arasul");
    let mut image = Image::new("arasul", PASSWORD, "arasul_db");
    image.init = vec![config.join("init")];
    let postgres = image.start();
    let port = postgres.port.to_string();
    let environment =
        [("POSTGRES_HOST", "127.0.0.1"), ("POSTGRES_PORT", &*port), ("POSTGRES_PASSWORD", PASSWORD)];
    let weir = Weir::start(&config.join("pgweir.toml"), &environment);
    let admin = ("arasul", PASSWORD);

    // The migrations: all of them, in their order, and once more without harm.
    let tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'";
    let before = postgres.execute(tables);
    assert_eq!(before, "24", "of the nine files, with retention_rules");
    let mut names: Vec<_> =
        std::fs::read_dir(config.join("init")).unwrap().map(|it| it.unwrap().path()).collect();
    names.sort();
    assert_eq!(names.len(), 9);
    for file in &names {
        let mut psql = postgres.client("psql");
        shell::run(psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-f"]).arg(file)).succeeded();
    }
    assert_eq!(postgres.execute(tables), before);

    // Pools: two servers at least, twenty at most, thirty seconds idle.
    let mut session = weir.login("arasul_metrics", "arasul", PASSWORD);
    assert_eq!(session.value("SELECT current_database()"), "arasul_db");
    let mut console = weir.login("pgweir", "arasul", PASSWORD);
    crate::support::eventually("the pool has its minimum", || {
        let servers = console.rows("SHOW SERVERS");
        servers.iter().filter(|row| row.iter().any(|it| it.as_deref() == Some("arasul_metrics"))).count() >= 2
    });
    for (name, value) in [
        ("min_pool_size", "2"),
        ("default_pool_size", "20"),
        ("server_idle_timeout", "30"),
        ("idle_transaction_timeout", "600"),
    ] {
        assert_eq!(setting(&weir, admin, name), value, "{name}");
    }

    // The LLM queue from node-postgres: no job is taken twice.
    shell::run(&mut client("arasul.mjs", &weir, ("arasul_llm", "arasul", PASSWORD))).succeeded();
    assert_eq!(postgres.execute("SELECT count(*) FROM llm_jobs WHERE status = 'done'"), "60");

    chats_are_counted_and_what_is_past_its_time_goes(&config, &postgres, &mut session);
    all_services_together_leave_room(&postgres, &weir);
    a_dump_comes_back_whole(&postgres, &weir);
}

/// As the README has it: `pg_dump -U arasul arasul_db > backup.sql`, all lost, `psql -U arasul arasul_db < backup.sql`.
fn a_dump_comes_back_whole(postgres: &Postgres, weir: &Weir) {
    let before = postgres.contents("arasul_db");
    assert!(before.lines().count() == 24 && before.contains("llm_jobs|60|"), "{before}");
    let dump = shell::run(&mut postgres.client("pg_dump")).succeeded();
    let file = shell::scratch("dump").join("backup.sql");
    place::write(&file, &dump);
    postgres.execute_in("postgres", "DROP DATABASE arasul_db WITH (FORCE)");
    postgres.execute_in("postgres", "CREATE DATABASE arasul_db");
    let mut restore = postgres.client("psql");
    shell::run(restore.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-f"]).arg(&file)).succeeded();
    assert_eq!(postgres.contents("arasul_db"), before);
    let mut session = weir.login("arasul_llm", "arasul", PASSWORD);
    assert_eq!(session.value("SELECT count(*) FROM llm_jobs"), "60");
}

fn chats_are_counted_and_what_is_past_its_time_goes(config: &Path, postgres: &Postgres, session: &mut Raw) {
    // Chats count their messages, and keep their sources.
    session.query(
        "INSERT INTO chat_conversations (title) VALUES ('one'), ('deleted long ago'), ('deleted now')",
    );
    session.query("INSERT INTO chat_messages (conversation_id, role, content, sources) SELECT 1, 'user', 'x', '[]' FROM generate_series(1, 3)");
    session.query("DELETE FROM chat_messages WHERE id = 1");
    assert_eq!(session.value("SELECT message_count FROM chat_conversations WHERE id = 1"), "2");

    // Retention: 7 days, 30 days after the mark, and what is permanent.
    session.query("UPDATE chat_conversations SET deleted_at = now() - interval '31 days' WHERE id = 2");
    session.query("UPDATE chat_conversations SET deleted_at = now() WHERE id = 3");
    for age in ["6 days", "8 days"] {
        for table in ["cpu", "ram", "gpu", "temperature"] {
            session.query(&format!("INSERT INTO metrics_{table} VALUES (now() - interval '{age}', 1)"));
        }
        session.query(&format!("INSERT INTO metrics_disk VALUES (now() - interval '{age}', 1, 1, 50)"));
        session.query(&format!("INSERT INTO self_healing_events (event_type, severity, timestamp) VALUES ('e', 's', now() - interval '{age}')"));
        session.query(&format!("INSERT INTO admin_users (username, password_hash, created_at) VALUES ('{age}', 'x', now() - interval '{age}')"));
        session.query(&format!("INSERT INTO workflow_activity (workflow_name, status, timestamp) VALUES ('w', 's', now() - interval '{age}')"));
        session.query(&format!("INSERT INTO update_events (version_to, status, started_at) VALUES ('1', 'done', now() - interval '{age}')"));
    }
    let mut retention = place::command("bash");
    retention
        .arg(config.join("retention.sh"))
        .arg("--once")
        .env("PGHOST", "127.0.0.1")
        .env("PGPORT", postgres.port.to_string());
    retention.env("PGUSER", "arasul").env("PGPASSWORD", PASSWORD).env("PGDATABASE", "arasul_db");
    let said = shell::run(&mut retention).succeeded();
    assert!(said.contains("metrics_cpu 1") && said.contains("chat_conversations 1"), "{said}");
    for (table, left) in [
        ("metrics_cpu", 1),
        ("metrics_ram", 1),
        ("metrics_gpu", 1),
        ("metrics_temperature", 1),
        ("metrics_disk", 1),
        ("self_healing_events", 1),
        ("admin_users", 2),
        ("workflow_activity", 1),
        ("update_events", 2),
        ("chat_conversations", 2),
    ] {
        assert_eq!(postgres.execute(&format!("SELECT count(*) FROM {table}")), left.to_string(), "{table}");
    }
}

fn all_services_together_leave_room(postgres: &Postgres, weir: &Weir) {
    // Five services that want twenty servers each get 85 together, and the server has room for its administrator.
    let names = ["arasul_db", "arasul_metrics", "arasul_healing", "arasul_llm", "arasul_documents"];
    let mut greedy: Vec<_> =
        names.iter().flat_map(|name| [*name; 20]).map(|name| weir.login(name, "arasul", PASSWORD)).collect();
    greedy.iter_mut().for_each(|client| client.send(&query("BEGIN")));
    let count = "SELECT count(*) FROM pg_stat_activity WHERE client_addr IS NOT NULL";
    crate::support::eventually("the cap is reached", || postgres.execute(count) == "85");
    // The others wait in pgweir, and no server is opened for them.
    let mut console = weir.login("pgweir", "arasul", PASSWORD);
    crate::support::eventually("the others wait", || {
        let pools = console.rows("SHOW POOLS");
        let waiting = pools.iter().map(|row| row[3].as_deref().unwrap().parse::<u32>().unwrap());
        waiting.sum::<u32>() == 15
    });
    assert_eq!(postgres.execute(count), "85");
    let mut dump = program("pg_dump", postgres.port, ("arasul_db", "arasul", PASSWORD));
    assert!(shell::run(&mut dump).succeeded().contains("dump complete"));
    let mut ready = program("pg_isready", postgres.port, ("arasul_db", "arasul", PASSWORD));
    assert_eq!(shell::run(&mut ready).code, Some(0));
}
