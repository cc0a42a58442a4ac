"""psycopg 3: client- and server-side binding, prepared statements, pipeline mode, COPY, cancel, threads, async."""

import asyncio
import threading
import time

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from common import MARK, SESSION, URL, ok, same

table = sql.Identifier(f"psycopg_{MARK}")


def connect(**options):
    return psycopg.connect(URL, **options)


def parameters():
    with connect() as conn:
        row = conn.execute("SELECT %s::int, %s::text, %s::float8, %s::bytea, %s::jsonb, %s::int[]",
                           (1, "two's", 3.5, b"\x00\xff", '{"a": 1}', [1, None, 3])).fetchone()
        same(row, (1, "two's", 3.5, b"\x00\xff", {"a": 1}, [1, None, 3]))
        same(conn.execute("SELECT %s::text", (None,)).fetchone(), (None,))
        cursor = conn.cursor(binary=True)
        same(cursor.execute("SELECT 1::int8, now() > '2000-01-01'").fetchone(), (1, True))
    ok("parameters")


def client_side_binding():
    with psycopg.connect(URL, cursor_factory=psycopg.ClientCursor) as conn:
        same(conn.execute("SELECT %s, %s", ("it's", 7)).fetchone(), ("it's", 7))
    ok("client-side binding")


def prepared_across_transactions():
    with connect(autocommit=True, prepare_threshold=0) as conn, connect(autocommit=True, prepare_threshold=0) as other:
        for n in range(30):
            same(conn.execute("SELECT %s::int + 1", (n,)).fetchone()[0], n + 1)
            same(other.execute("SELECT %s::int + 2", (n,)).fetchone()[0], n + 2)
        for n in range(300):
            same(conn.execute(f"SELECT %s::int + {n}", (1,), prepare=True).fetchone()[0], n + 1)
    ok("prepared across transactions")


def transactions():
    with connect(autocommit=True) as conn:
        conn.execute(sql.SQL("CREATE TABLE {} (n int PRIMARY KEY, t text)").format(table))
        insert = sql.SQL("INSERT INTO {} VALUES (%s, %s)").format(table)
        count = sql.SQL("SELECT count(*) FROM {}").format(table)
        with conn.transaction():
            conn.execute(insert, (1, "one"))
        try:
            with conn.transaction():
                conn.execute(insert, (2, "two"))
                raise RuntimeError("changed my mind")
        except RuntimeError:
            pass
        same(conn.execute(count).fetchone()[0], 1)
        with conn.transaction():
            try:
                with conn.transaction():
                    conn.execute(insert, (1, "again"))
            except psycopg.errors.UniqueViolation as error:
                same(error.sqlstate, "23505")
            conn.execute(insert, (3, "three"))
        same(conn.execute(count).fetchone()[0], 2)
        try:
            conn.execute("SELECT 1/0")
        except psycopg.errors.DivisionByZero:
            pass
        conn.cursor().executemany(insert, [(n, str(n)) for n in range(100, 1100)])
        same(conn.execute(count).fetchone()[0], 1002)
    ok("transactions, errors, executemany")


def pipeline():
    with connect(autocommit=True) as conn:
        with conn.pipeline():
            results = [conn.execute("SELECT %s::int", (n,)) for n in range(200)]
        same([cursor.fetchone()[0] for cursor in results], list(range(200)))
        try:
            with conn.pipeline() as pipe:
                good = conn.execute("SELECT 'good'")
                pipe.sync()
                conn.execute("SELECT 1/0")
                conn.execute("SELECT 'aborted'")
                pipe.sync()
                conn.execute("SELECT 'after'")
        except psycopg.errors.DivisionByZero:
            pass
        same(good.fetchone()[0], "good")
        same(conn.execute("SELECT 'alive'").fetchone()[0], "alive")
        with conn.pipeline(), conn.transaction():
            conn.execute(sql.SQL("INSERT INTO {} VALUES (5000, 'p')").format(table))
            cursor = conn.execute(sql.SQL("SELECT t FROM {} WHERE n = 5000").format(table))
            same(cursor.fetchone()[0], "p")
    ok("pipeline mode")


def copy():
    with connect() as conn, conn.cursor() as cursor:
        with cursor.copy(sql.SQL("COPY {} FROM STDIN").format(table)) as stream:
            for n in range(10_000, 30_000):
                stream.write_row((n, "c" * 50))
        with cursor.copy(sql.SQL("COPY (SELECT n FROM {} WHERE n >= 10000 ORDER BY n) TO STDOUT").format(table)) as stream:
            same(sum(1 for _ in stream.rows()), 20_000)
        conn.commit()
        try:
            with cursor.copy(sql.SQL("COPY {} FROM STDIN").format(table)) as stream:
                stream.write("nonsense\n")
        except psycopg.errors.InvalidTextRepresentation:
            conn.rollback()
        same(cursor.execute("SELECT 1").fetchone(), (1,))
    ok("COPY")


def large_rows_and_cursors():
    with connect(row_factory=dict_row) as conn:
        same(len(conn.execute("SELECT repeat('x', 10000000) AS wide").fetchone()["wide"]), 10_000_000)
        same(conn.execute("SELECT length(%s) AS n", ("y" * 5_000_000,)).fetchone()["n"], 5_000_000)
        with conn.cursor(name="server_side") as cursor:
            cursor.itersize = 100
            cursor.execute("SELECT generate_series(1, 5000) AS n")
            same(sum(row["n"] for row in cursor), 5000 * 5001 // 2)
    ok("large rows, server-side cursors")


def settings():
    with connect(autocommit=True) as conn, connect(autocommit=True) as other:
        conn.execute("SET TimeZone = 'Asia/Tokyo'")
        same(conn.info.parameter_status("TimeZone"), "Asia/Tokyo")
        for _ in range(5):
            same(other.execute("SHOW TimeZone").fetchone()[0] == "Asia/Tokyo", False)
            same(conn.execute("SHOW TimeZone").fetchone()[0], "Asia/Tokyo")
        with conn.transaction():
            conn.execute("SET LOCAL statement_timeout = '50ms'")
            try:
                with conn.transaction():
                    conn.execute("SELECT pg_sleep(10)")
            except psycopg.errors.QueryCanceled:
                pass
        same(conn.execute("SHOW statement_timeout").fetchone()[0], "0")
    with psycopg.connect(URL, application_name="it's me", options="-c TimeZone=Europe/Berlin") as conn:
        same(conn.execute("SELECT current_setting('application_name'), current_setting('TimeZone')").fetchone(),
             ("it's me", "Europe/Berlin"))
    ok("session settings")


def cancel():
    with connect(autocommit=True) as conn, connect(autocommit=True) as other:
        sleep = f"SELECT pg_sleep(30) AS mark_{MARK}"

        def cancel_what_runs():
            # Before it runs there is nothing to cancel.
            running = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query = %s"
            while other.execute(running, (sleep,)).fetchone()[0] == 0:
                pass
            conn.cancel_safe()

        canceller = threading.Thread(target=cancel_what_runs, daemon=True)
        canceller.start()
        begin = time.monotonic()
        try:
            conn.execute(sleep)
            raise AssertionError("was not cancelled")
        except psycopg.errors.QueryCanceled:
            pass
        assert time.monotonic() - begin < 10
        canceller.join()
        same(conn.execute("SELECT 'alive'").fetchone()[0], "alive")
    ok("cancel")


def notifications():
    with connect(autocommit=True) as conn:
        conn.execute(f"LISTEN channel_{MARK}")
        with connect(autocommit=True) as other:
            other.execute(f"NOTIFY channel_{MARK}, 'payload'")
        for notify in conn.notifies(timeout=10, stop_after=1):
            same(notify.payload, "payload")
            ok("LISTEN")
            return
        raise AssertionError("no notification came")


async def concurrently():
    async def one(n):
        conn = await psycopg.AsyncConnection.connect(URL, autocommit=True)
        async with conn:
            for m in range(20):
                cursor = await conn.execute("SELECT %s::int * 1000 + %s::int", (n, m))
                same((await cursor.fetchone())[0], n * 1000 + m)

    await asyncio.gather(*(one(n) for n in range(40)))
    ok("forty async connections")


parameters()
client_side_binding()
prepared_across_transactions()
transactions()
pipeline()
copy()
large_rows_and_cursors()
settings()
cancel()
if SESSION:
    notifications()
if not SESSION:
    asyncio.run(concurrently())
