"""Lingudesk's services come by psycopg: a pool each, which lands in its schema, and users in turn on its servers."""

import os

import psycopg


def connect(pool, **options):
    return psycopg.connect(
        "postgresql://{DB_USER}:{DB_PASSWORD}@127.0.0.1:{DB_PORT}".format(**os.environ) + "/lingudesk_" + pool, **options
    )


def fetch(conn, sql, *values):
    return conn.execute(sql, values).fetchone()[0]


for schema in ["auth", "credit", "ai", "content", "audit"]:
    with connect(schema) as conn:
        assert fetch(conn, "SELECT current_schema()") == schema

# Rows of two users. Every statement is prepared on the server, as psycopg does after five executions.
ada, grace, nobody = (connect("content", prepare_threshold=1) for _ in range(3))
servers = {ada: set(), grace: set(), nobody: set()}
NOBODY = 0


def titles(conn, user):
    with conn.transaction():
        if user != NOBODY:
            conn.execute("SELECT set_config('app.user_id', %s, true)", [str(user)])
        servers[conn].add(fetch(conn, "SELECT pg_backend_pid()"))
        return [row[0] for row in conn.execute("SELECT title FROM decks ORDER BY deck_id")]


for name, user in ((ada, 1), (grace, 2)):
    with name.transaction():
        name.execute("SELECT set_config('app.user_id', %s, true)", [str(user)])
        name.execute("INSERT INTO decks (user_id, language_code, title) VALUES (%s, 'ja', %s)", [user, f"of {user}"])
for _ in range(10):
    assert titles(ada, 1) == ["Rivers and weirs", "of 1"]
    assert titles(grace, 2) == ["Le marché", "of 2"]
    assert titles(nobody, NOBODY) == []
assert set.intersection(*servers.values()), "they were to share a server connection"

# The cache of the plugins is everybody's; what was spent is one's own.
with connect("ai", autocommit=True) as conn:
    conn.execute("INSERT INTO cache_entries (query_hash, plugin, answer) VALUES (%s, 'tutor', '{}')", [b"\x00\xff"])
    assert fetch(conn, "SELECT count(*) FROM usage_logs") == 0
for conn in (ada, grace, nobody):
    conn.close()
