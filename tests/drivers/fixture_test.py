"""Debian's python3-pgbouncer: a test's own pooler, written for PgBouncer and started by that name."""

import os
import tempfile

import psycopg2
from pgbouncer.fixture import PGBouncerFixture

SERVER = os.environ["PGWEIR_SERVER"]


def ok(name):
    print("ok", name, flush=True)


def same(got, expected):
    assert got == expected, f"got {got!r}, expected {expected!r}"


bouncer = PGBouncerFixture()
bouncer.databases["app"] = f"host=127.0.0.1 port={SERVER}"
bouncer.users["app"] = "app-secret"
bouncer.users["admin"] = ""
bouncer.admin_users = ["admin"]


def connect(host=None, database="app", user="app"):
    return psycopg2.connect(host=host or bouncer.host, port=bouncer.port, dbname=database, user=user)


def answer(connection, sql):
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(sql)
        row = cursor.fetchone()
    connection.close()
    return row


same(bouncer.is_running, False)
with tempfile.TemporaryDirectory() as sockets:
    bouncer.unix_socket_dir = sockets
    with bouncer:
        same(bouncer.is_running, True)
        same(answer(connect(), "SELECT current_user")[0], "app")
        ok("over TCP")
        same(answer(connect(host=sockets), "SELECT 40 + 2")[0], 42)
        ok("over the unix socket")
        assert answer(connect(database="pgbouncer", user="admin"), "SHOW VERSION")[0].startswith("PgBouncer 1.25")
        ok("on the console")
        with open(bouncer.pidpath) as file:
            same(int(file.read()), bouncer.process.pid)
        with open(bouncer.logpath) as file:
            assert "LOG process up: PgBouncer 1.25" in file.read()
        ok("pid file and log file")
        pid = bouncer.process.pid
        bouncer.start()
        same(bouncer.process.pid, pid)
        bouncer.stop()
        same(bouncer.is_running, False)
        assert not os.path.exists(bouncer.pidpath)
        try:
            connect()
            raise AssertionError("still there")
        except psycopg2.OperationalError:
            pass
        bouncer.start()
        same(answer(connect(), "SELECT 1")[0], 1)
        ok("stopped and started again")
    same(bouncer.is_running, False)
ok("gone")
