"""linkding comes by psycopg (through Django): persistent connections, server-side cursors inside a transaction."""

import os
import threading

import psycopg

URL = "postgresql://{DB_USER}:{DB_PASSWORD}@127.0.0.1:{DB_PORT}/{DB_NAME}".format(**os.environ)

with psycopg.connect(URL, application_name="linkding") as conn:
    conn.execute("CREATE TABLE bookmarks (id serial PRIMARY KEY, url text)")
    with conn.cursor() as cursor:
        cursor.executemany("INSERT INTO bookmarks (url) VALUES (%s)", [(f"https://example.org/{n}",) for n in range(50)])


def read():
    with psycopg.connect(URL, prepare_threshold=1) as conn:
        for _ in range(10):
            with conn.transaction(), conn.cursor("all") as cursor:
                cursor.execute("SELECT id FROM bookmarks ORDER BY id")
                assert len(cursor.fetchall()) == 50


threads = [threading.Thread(target=read) for _ in range(10)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
