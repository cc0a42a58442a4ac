//! A schema per pool: `search_path` is fixed for an entry's servers from their start-up on.

use crate::support::prelude::*;

/// A pooler of one server whose database `entry` has this schema.
fn with_schema(schema: &str) -> Pooler {
    let lines = format!("dbname = \"app\"\nschema = {schema:?}");
    Setup::of(Cluster::shared()).set("default_pool_size", "1").database("entry", &lines).start()
}

fn current(client: &mut Raw) -> String {
    client.value("SELECT current_schema()")
}

/// Makes schemas for one test, each with a table `whose` that holds its name.
fn schemas(names: &[&str]) {
    let mut owner = Cluster::shared().connect("app", "postgres");
    for name in names {
        let quoted = format!("\"{}\"", name.replace('"', "\"\""));
        owner.query(&format!("DROP SCHEMA IF EXISTS {quoted} CASCADE"));
        let literal = name.replace('\'', "''");
        owner.rows(&format!(
            "CREATE SCHEMA {quoted}; CREATE TABLE {quoted}.whose AS SELECT '{literal}'::text AS name; \
            GRANT ALL ON SCHEMA {quoted} TO PUBLIC; GRANT ALL ON {quoted}.whose TO PUBLIC"
        ));
    }
}

#[test]
fn clients_land_in_the_schema_of_their_entry() {
    schemas(&["landing", "landing_2"]);
    let lines = |schema: &str| format!("dbname = \"app\"\nschema = \"{schema}\"");
    let setup =
        Setup::of(Cluster::shared()).database("one", &lines("landing")).database("two", &lines("landing_2"));
    let pooler = setup.start();
    assert_eq!(pooler.connect("one", "app").value("TABLE whose"), "landing");
    assert_eq!(pooler.connect("two", "app").value("TABLE whose"), "landing_2");
    assert_eq!(pooler.connect("app", "app").value("SELECT current_schema()"), "public");
}

#[test]
fn reset_and_discard_all_come_back_to_it() {
    schemas(&["coming_back"]);
    let pooler = with_schema("coming_back");
    let mut client = pooler.connect("entry", "app");
    for way in ["RESET search_path", "DISCARD ALL", "RESET ALL", "SET search_path TO DEFAULT"] {
        client.query("BEGIN");
        client.query("SET search_path TO pg_catalog");
        client.query("COMMIT");
        client.query(way);
        assert_eq!(current(&mut client), "coming_back", "after {way}");
    }
}

#[test]
fn a_clients_own_search_path_does_not_reach_the_next_client() {
    schemas(&["not_reached"]);
    let pooler = with_schema("not_reached");
    let (mut one, mut two) = (pooler.connect("entry", "app"), pooler.connect("entry", "app"));
    for set in [
        "SET search_path TO pg_catalog",
        "set session search_path = pg_catalog",
        "/* why */ SET search_path TO pg_catalog",
        "SELECT set_config('search_path', 'pg_catalog', false)",
        "DO $$ BEGIN PERFORM set_config('search_path', 'pg_catalog', false); END $$",
    ] {
        one.query(set);
        assert_eq!(current(&mut two), "not_reached", "after {set}");
    }
}

#[test]
fn a_schema_may_have_any_name() {
    for name in ["With Capitals", "dot.ted name", "it's", "back\\slash", "größe", "select"] {
        schemas(&[name]);
        let pooler = with_schema(name);
        assert_eq!(current(&mut pooler.connect("entry", "app")), name);
    }
}

#[test]
fn a_list_is_a_search_path() {
    schemas(&["first_of_two"]);
    let pooler = with_schema("first_of_two, pg_catalog");
    let mut client = pooler.connect("entry", "app");
    assert_eq!(client.value("SHOW search_path"), "first_of_two, pg_catalog");
    assert_eq!(client.value("TABLE whose"), "first_of_two");
}

#[test]
fn in_session_mode_it_is_kept_from_client_to_client() {
    schemas(&["in_session"]);
    let lines = "dbname = \"app\"\nschema = \"in_session\"\npool_mode = \"session\"";
    let pooler = Setup::of(Cluster::shared()).set("default_pool_size", "1").database("entry", lines).start();
    let mut one = pooler.connect("entry", "app");
    one.query("SET search_path TO pg_catalog");
    assert_eq!(current(&mut one), "pg_catalog");
    one.goodbye();
    assert_eq!(current(&mut pooler.connect("entry", "app")), "in_session");
}
