//! What statements of all kinds leave behind, row by row.

use proptest::prelude::*;

use super::*;

fn judged(text: &str) -> Residue {
    of_statement(text.as_bytes(), |name| ["timezone", "client_encoding", "datestyle"].contains(&name))
}

#[track_caller]
fn check(rows: &[(&str, Residue)]) {
    for (text, expected) in rows {
        assert_eq!(judged(text), *expected, "{text}");
        let upper = text.to_ascii_uppercase();
        // Strings lose their meaning in upper case, other things do not.
        if !text.contains('\'') && !text.contains('$') && !text.contains('"') {
            assert_eq!(judged(&upper), *expected, "{upper}");
        }
    }
}

const NONE: Residue = Residue::NONE;
const ANY_SETTING: Residue = Residue::SETTING.union(Residue::ROLE);

#[test]
fn ordinary_statements_leave_nothing() {
    check(&[
        ("", NONE),
        (";", NONE),
        ("select 1", NONE),
        ("select * from t where a = $1 limit 10 offset 20;", NONE),
        ("update t set a = 1 where b = 'set x = 1'", NONE),
        ("insert into t (a) values ('; set work_mem = 1')", NONE),
        ("begin; update t set a = 2; commit", NONE),
        ("select 'it''s; set role x', \"; listen a\"", NONE),
        ("select $$; set role x$$, $a$; $$ listen y $a$", NONE),
        ("select $1; select $2", NONE),
        ("-- set role x\nselect 1; /* ; set a = 1 /* ; listen b */ ; load 'x' */ select 2", NONE),
        ("select e'\\'; set role x; '", NONE),
        ("execute p(1)", NONE),
        ("select template, temperature, advice from temporary_things", NONE),
        ("copy t from stdin", NONE),
        ("show all", NONE),
        ("reset all", NONE),
        ("unlisten *", NONE),
        ("do $$ begin perform 1; end $$", NONE),
        ("select description from do_not; delete from discard_pile", NONE),
    ]);
}

#[test]
fn set_leaves_what_nobody_tracks() {
    check(&[
        ("set local.tenant = '7'", Residue::SETTING),
        ("set transaction.x to 1", Residue::SETTING),
        ("set constraints.x = 1", Residue::SETTING),
        ("set role.x = 1", Residue::SETTING),
        ("set session.x = 1", Residue::SETTING),
        ("set work_mem = '1GB'", Residue::SETTING),
        ("  set session statement_timeout to 0", Residue::SETTING),
        ("/* app */ set statement_timeout to 0", Residue::SETTING),
        ("-- app\nset statement_timeout to 0", Residue::SETTING),
        ("\x0bset statement_timeout to 0", Residue::SETTING),
        ("select 1; set statement_timeout to 0", Residue::SETTING),
        ("begin;set statement_timeout to 0;commit", Residue::SETTING),
        ("select 'a'; -- ;\n set statement_timeout to 0", Residue::SETTING),
        ("set statement_timeout to default", NONE),
        ("set local statement_timeout to 0", NONE),
        ("set transaction isolation level serializable", NONE),
        ("set session transaction read only", NONE),
        ("set constraints all deferred", NONE),
        ("set session characteristics as transaction read only", Residue::SETTING),
        ("set time zone 'UTC'", NONE),
        ("set local time zone 'UTC'", NONE),
        ("set timezone to utc", NONE),
        ("set \"TimeZone\" to utc", NONE),
        ("set names 'utf8'", NONE),
        ("set schema 'x'", Residue::SETTING),
        ("set xml option document", Residue::SETTING),
        ("set myapp.user_id = '7'", Residue::SETTING),
        ("set timezone.abc = '7'", Residue::SETTING),
        ("set search_path to pg_temp, public", Residue::SETTING | Residue::TEMPORARY),
        ("set search_path to 'pg_temp'", Residue::SETTING | Residue::TEMPORARY),
        ("set", NONE),
        ("set =", Residue::SETTING),
        ("update pg_settings set setting = '1' where name = 'work_mem'", ANY_SETTING),
        ("select * from pg_settings for update", NONE),
    ]);
}

#[test]
fn roles_stay() {
    check(&[
        ("set role bob", Residue::ROLE),
        ("set session role bob", Residue::ROLE),
        ("set role to bob", Residue::ROLE),
        ("set role none", Residue::ROLE),
        ("set role to default", NONE),
        ("reset role", NONE),
        ("reset session authorization", NONE),
        ("set local role bob", NONE),
        ("set session authorization bob", Residue::ROLE),
        ("set session session authorization bob", Residue::ROLE),
        ("set session authorization default", NONE),
        ("set local session authorization bob", NONE),
        ("set \"role\" = 'bob'", Residue::ROLE),
        ("select set_config('role', 'bob', false)", Residue::ROLE),
    ]);
}

#[test]
fn set_config_stays_unless_it_is_local() {
    check(&[
        ("select set_config('a.b', $1, true)", NONE),
        ("select set_config('a.b', f(1, 2), true), 1", NONE),
        ("select set_config('a.b', $1, false)", Residue::SETTING),
        ("select pg_catalog.set_config('a.b', $1, $2)", Residue::SETTING),
        ("select set_config($1, $2, true)", NONE),
        ("select set_config($1, $2, false)", ANY_SETTING),
        ("select set_config('timezone', 'utc', false)", NONE),
        ("select set_config('ro' || 'le', 'bob', false)", ANY_SETTING),
        ("select set_config('a.b', 'c', true and false)", Residue::SETTING),
        ("select set_config('a.b', 'c', not true)", Residue::SETTING),
        ("select set_config('a', set_config('b', 'c', false), true)", ANY_SETTING),
        ("select set_config('a', pg_advisory_lock(1)::text, true)", Residue::ADVISORY),
        ("select set_config('search_path', 'pg_temp', true)", Residue::TEMPORARY),
        ("select set_config('a.b', '1', true); select set_config('a.b', '1', false)", Residue::SETTING),
        ("select set_config('a.b', '1'", Residue::SETTING),
        ("select current_setting('set_config')", NONE),
    ]);
}

#[test]
fn temporary_objects_stay_unless_dropped_on_commit() {
    check(&[
        ("create temp table t (a int)", Residue::TEMPORARY),
        ("create temporary table t as select 1", Residue::TEMPORARY),
        ("create local temp table t (a int) on commit delete rows", Residue::TEMPORARY),
        ("create global temporary view v as select 1", Residue::TEMPORARY),
        ("create or replace temp view v as select 1", Residue::TEMPORARY),
        ("create temp table t (a int) on commit drop", NONE),
        ("create temp table t (a int) on commit drop; create temp table u (a int)", Residue::TEMPORARY),
        ("create temp sequence s", Residue::TEMPORARY),
        ("explain analyze create temp table t as select 1", Residue::TEMPORARY),
        ("select 1 as a into temp t", Residue::TEMPORARY),
        ("with x as (select 1) select * into local temporary t from x", Residue::TEMPORARY),
        ("create table pg_temp.t (a int)", Residue::TEMPORARY),
        ("create table \"pg_temp\".t (a int)", Residue::TEMPORARY),
        ("create function pg_temp.f() returns int language sql as 'select 1'", Residue::TEMPORARY),
        ("select * from pg_class where nspname not like 'pg_temp%'", NONE),
        ("create table temp (a int)", NONE),
        ("insert into temperature values (1)", NONE),
    ]);
}

#[test]
fn locks_listeners_cursors_and_prepared_statements_stay() {
    check(&[
        ("select pg_advisory_lock(1)", Residue::ADVISORY),
        ("select pg_try_advisory_lock(1, 2)", Residue::ADVISORY),
        ("select pg_catalog.pg_advisory_lock_shared(1)", Residue::ADVISORY),
        ("select pg_try_advisory_lock_shared(1)", Residue::ADVISORY),
        ("select pg_advisory_xact_lock(1), pg_try_advisory_xact_lock_shared(2)", NONE),
        ("select pg_advisory_unlock(1)", NONE),
        ("listen channel", Residue::LISTEN),
        ("notify channel", NONE),
        ("declare c cursor with hold for select 1", Residue::CURSOR),
        ("declare c binary insensitive no scroll cursor with hold for select 1", Residue::CURSOR),
        ("declare c cursor for select 1", NONE),
        ("declare c cursor without hold for select 1", NONE),
        ("declare c cursor for with hold as (select 1) select * from hold", NONE),
        ("prepare p as select 1", Residue::PREPARED),
        ("prepare p (int) as select $1", Residue::PREPARED),
        ("prepare transaction 'x'", NONE),
        ("deallocate p", Residue::DEALLOCATES),
        ("deallocate prepare p", Residue::DEALLOCATES),
        ("deallocate all", Residue::DEALLOCATES_ALL),
        ("discard all", Residue::DEALLOCATES_ALL),
        ("discard temp", NONE),
        ("load 'auto_explain'", Residue::LIBRARY),
    ]);
}

#[test]
fn do_blocks_are_read_inside() {
    check(&[
        ("do $$ begin set work_mem = 1; end $$", Residue::SETTING),
        ("do $$ declare a int := 1; begin if a = 1 then listen x; end if; end $$", Residue::LISTEN),
        ("do 'begin create temp table t (); end'", Residue::TEMPORARY),
        ("do $$ begin perform set_config('a.b', '1', true); end $$", NONE),
        ("do $$ begin execute 'set role bob'; end $$", Residue::ROLE),
        ("do $$ begin execute format('set role %I', x); end $$", Residue::ROLE),
        ("do $$ begin execute format('set %I = %L', 'role', x); end $$", Residue::SETTING | Residue::ROLE),
        ("do $$ begin execute format('set session %s', 'role x'); end $$", Residue::SETTING | Residue::ROLE),
        ("do $$ begin update t set a = 1; end $$", NONE),
        ("do language plpgsql $x$ begin perform pg_advisory_lock(1); end $x$", Residue::ADVISORY),
        ("create function f() returns void language plpgsql as $$ begin set work_mem = 1; end $$", NONE),
    ]);
}

#[test]
fn strings_that_can_be_read_in_two_ways_are_read_in_both() {
    check(&[
        ("select '\\'; set role bob; --'", Residue::ROLE),
        ("select '\\''; set role bob; --'", Residue::ROLE),
    ]);
}

#[test]
fn only_the_window_is_read() {
    let mut text = "select 1".to_owned() + &" ".repeat(STATEMENT_SCAN_BYTES_MAX);
    text.push_str("; listen x");
    assert_eq!(judged(&text), NONE);
}

#[test]
fn tags_are_judged_where_text_was_not() {
    assert_eq!(of_tag(b"SET").leaves, ANY_SETTING);
    assert!(of_tag(b"SELECT 12").leaves.contains(Residue::TEMPORARY));
    assert_eq!(of_tag(b"INSERT 0 1"), TagMeaning::default());
    assert!(of_tag(b"DISCARD ALL").deallocates_all);
    assert!(of_tag(b"DEALLOCATE ALL").deallocates_all);
    assert!(!of_tag(b"DEALLOCATE").deallocates_all);
    let left = Residue::SETTING | Residue::LIBRARY;
    assert_eq!(left.without(of_tag(b"DISCARD ALL").clears), Residue::LIBRARY);
}

#[test]
fn cleaning_undoes_just_what_was_found() {
    assert_eq!(NONE.cleaning(), "");
    assert_eq!(Residue::DEALLOCATES_ALL.cleaning(), "");
    assert_eq!((Residue::SETTING | Residue::LISTEN).cleaning(), "RESET ALL;UNLISTEN *;");
    assert!(Residue::LIBRARY.needs_close());
    assert!(!Residue::LIBRARY.is_empty());
    assert!(Residue::DEALLOCATES.is_empty());
    assert_eq!((Residue::ROLE | Residue::CURSOR).to_string(), "role, cursor");
}

const WORDS: &[&str] = &[
    "set",
    "session",
    "local",
    "role",
    "'",
    "\"",
    "$$",
    "$a$",
    "/*",
    "*/",
    "--",
    "\n",
    ";",
    "(",
    ")",
    ",",
    "\\",
    "e'",
    "do",
    "temp",
    "create",
    "set_config",
    "true",
    "declare",
    "with",
    "hold",
    "prepare",
    "pg_temp",
    ".",
    "=",
    "begin",
    "deallocate",
    "all",
    "$1",
    "é",
];

proptest! {
    #[test]
    fn no_bytes_make_it_panic(text in proptest::collection::vec(any::<u8>(), 0..200)) {
        of_statement(&text, |_| false);
        of_tag(&text);
    }

    #[test]
    fn no_words_make_it_panic(words in proptest::collection::vec(proptest::sample::select(WORDS), 0..60)) {
        of_statement(words.concat().as_bytes(), |_| false);
        of_statement(words.join(" ").as_bytes(), |_| true);
    }

    /// What is appended as a statement of its own is found whatever closed text stands before it.
    #[test]
    fn a_later_statement_is_found(before in "([a-z ]|'[a-z;]*'|\"[a-z;]*\"|/\\*[a-z;]*\\*/| \\$\\$[a-z;]*\\$\\$){0,12}") {
        let text = format!("{before} ; listen x");
        prop_assert!(of_statement(text.as_bytes(), |_| false).contains(Residue::LISTEN), "{}", text);
    }
}
