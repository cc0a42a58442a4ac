"""asyncpg: it prepares everything under a name, introspects types, and pools connections."""

import asyncio

import asyncpg

from common import MARK, SESSION, URL, ok, same

table = f"asyncpg_{MARK}"


async def main():
    conn = await asyncpg.connect(URL)
    same(await conn.fetchval("SELECT $1::int + $2::int", 40, 2), 42)
    row = await conn.fetchrow("SELECT $1::text AS t, $2::jsonb AS j, $3::timestamptz IS NULL AS n, $4::numeric[] AS a",
                              "it's", '{"a": 1}', None, [1, 2])
    same((row["t"], row["n"], len(row["a"])), ("it's", True, 2))
    ok("parameters and types")

    other = await asyncpg.connect(URL)
    for n in range(50):
        same(await conn.fetchval("SELECT $1::int * 2", n), n * 2)
        same(await other.fetchval("SELECT $1::int * 3", n), n * 3)
    statement = await conn.prepare("SELECT $1::text || '!'")
    for n in range(20):
        same(await statement.fetchval(str(n)), f"{n}!")
        await other.fetchval("SELECT 1")
    for n in range(300):
        same(await conn.fetchval(f"SELECT {n} + $1::int", 1), n + 1)
    ok("prepared statements over transactions")

    await conn.execute(f"CREATE TABLE {table} (n int PRIMARY KEY, t text)")
    async with conn.transaction():
        await conn.execute(f"INSERT INTO {table} VALUES ($1, $2)", 1, "one")
    try:
        async with conn.transaction():
            await conn.execute(f"INSERT INTO {table} VALUES ($1, $2)", 2, "two")
            raise RuntimeError
    except RuntimeError:
        pass
    async with conn.transaction():
        try:
            async with conn.transaction():
                await conn.execute(f"INSERT INTO {table} VALUES ($1, $2)", 1, "again")
        except asyncpg.UniqueViolationError as error:
            same(error.sqlstate, "23505")
        await conn.execute(f"INSERT INTO {table} VALUES ($1, $2)", 3, "three")
    same(await conn.fetchval(f"SELECT count(*) FROM {table}"), 2)
    try:
        await conn.fetchval("SELECT 1/0")
    except asyncpg.DivisionByZeroError:
        pass
    try:
        await conn.fetchval("SELECT nonsense")
    except asyncpg.UndefinedColumnError:
        pass
    await conn.executemany(f"INSERT INTO {table} VALUES ($1, $2)", [(n, str(n)) for n in range(100, 2100)])
    same(await conn.fetchval(f"SELECT count(*) FROM {table}"), 2002)
    ok("transactions, errors, executemany")

    await conn.copy_records_to_table(table, records=[(n, "c") for n in range(10_000, 20_000)])
    same(await conn.fetchval(f"SELECT count(*) FROM {table} WHERE n >= 10000"), 10_000)
    chunks = []

    async def keep(data):
        chunks.append(data)

    await conn.copy_from_query(f"SELECT n FROM {table} ORDER BY n", output=keep)
    same(b"".join(chunks).count(b"\n"), 12_002)
    ok("COPY")

    same(len(await conn.fetchval("SELECT repeat('x', 10000000)")), 10_000_000)
    async with conn.transaction():
        total = 0
        async for record in conn.cursor("SELECT generate_series(1, 1000)"):
            total += record[0]
        same(total, 500_500)
    ok("large rows, cursors")

    # The result type changes under a prepared statement.
    await conn.fetch(f"SELECT * FROM {table} LIMIT 1")
    await other.execute(f"ALTER TABLE {table} ADD COLUMN extra int DEFAULT 7")
    try:
        rows = await conn.fetch(f"SELECT * FROM {table} LIMIT 1")
    except asyncpg.exceptions.InvalidCachedStatementError:
        rows = await conn.fetch(f"SELECT * FROM {table} LIMIT 1")
    same(rows[0]["extra"], 7)
    ok("changed result type")

    try:
        await conn.fetchval("SELECT pg_sleep(30)", timeout=0.3)
        raise AssertionError("was not cancelled")
    except TimeoutError:
        pass
    same(await conn.fetchval("SELECT 'alive'"), "alive")
    ok("time-out by cancel")

    if SESSION:
        heard = asyncio.get_running_loop().create_future()
        await conn.add_listener(f"channel_{MARK}", lambda *event: heard.set_result(event[3]))
        await other.execute(f"NOTIFY channel_{MARK}, 'payload'")
        same(await asyncio.wait_for(heard, 10), "payload")
        ok("LISTEN")
    await conn.close()
    await other.close()

    async with asyncpg.create_pool(URL, min_size=2, max_size=4 if SESSION else 30,
                                   server_settings={"application_name": "asyncpg's pool"}) as pool:
        async def one(n):
            for m in range(10):
                same(await pool.fetchval("SELECT $1::int + $2::int", n, m), n + m)

        await asyncio.gather(*(one(n) for n in range(60)))
        # Its pool sends RESET ALL between two users of a connection.
        for _ in range(3):
            same(await pool.fetchval("SHOW application_name"), "asyncpg's pool")
    ok("a pool of its own")


asyncio.run(main())
