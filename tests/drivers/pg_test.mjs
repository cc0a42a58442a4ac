// node-postgres: simple and named queries, its pool, cursors, errors, notifications.

import { createRequire } from "node:module";

import { database, fails, host, mark, ok, password, port, same, session, user } from "./common.mjs";

const require = createRequire(process.env.PGWEIR_NODE_MODULES + "/");
const pg = require("pg");
const Cursor = require("pg-cursor");

const options = { host, port, user, password, database };
const pool = new pg.Pool({ ...options, max: session ? 4 : 30, idleTimeoutMillis: 1000, connectionTimeoutMillis: 10000 });

const client = new pg.Client(options);
await client.connect();
same((await client.query("SELECT $1::int + $2::int AS sum", [40, 2])).rows, [{ sum: 42 }]);
same((await client.query("SELECT $1::text AS t, $2::jsonb AS j", ["it's", { a: 1 }])).rows, [{ t: "it's", j: { a: 1 } }]);
const several = await client.query("SELECT 1 AS a; SELECT 2 AS b");
same(several.map((result) => result.rows[0]), [{ a: 1 }, { b: 2 }]);
ok("parameters");

for (let n = 0; n < 60; n++) {
  const named = await pool.query({ name: "double", text: "SELECT $1::int * 2 AS n", values: [n] });
  same(named.rows[0].n, n * 2);
}
await Promise.all(Array.from({ length: 300 }, async (_, n) => {
  const query = { name: `name ${n % 50}`, text: `SELECT $1::int + ${n % 50} AS n`, values: [n] };
  same((await pool.query(query)).rows[0].n, n + (n % 50));
}));
ok("named statements from a pool");

const table = `pg_${mark}`;
await client.query(`CREATE TABLE ${table} (n int PRIMARY KEY, t text)`);
await client.query("BEGIN");
await client.query(`INSERT INTO ${table} VALUES (1, 'one')`);
await client.query("ROLLBACK");
await client.query("BEGIN");
await client.query(`INSERT INTO ${table} VALUES (1, 'one')`);
await fails(client.query(`INSERT INTO ${table} VALUES (1, 'again')`), "23505");
await fails(client.query("SELECT 1"), "25P02");
await client.query("ROLLBACK");
same((await client.query(`SELECT count(*)::int AS n FROM ${table}`)).rows[0].n, 0);
await fails(client.query("SELECT $1::int", ["no number"]), "22P02");
await fails(client.query({ name: "broken", text: "SELEC $1" , values: [1] }), "42601");
same((await client.query("SELECT 'alive' AS it")).rows[0].it, "alive");
ok("transactions and errors");

same((await client.query("SELECT repeat('x', 10000000) AS wide")).rows[0].wide.length, 10_000_000);
same((await client.query("SELECT length($1) AS n", ["y".repeat(5_000_000)])).rows[0].n, 5_000_000);
same((await client.query("SELECT n FROM generate_series(1, 100000) AS n")).rows.length, 100_000);
await client.query("BEGIN");
const cursor = client.query(new Cursor("SELECT n FROM generate_series(1, 1000) AS n"));
let total = 0;
for (let rows = await cursor.read(100); rows.length > 0; rows = await cursor.read(100)) {
  total += rows.length;
}
same(total, 1000);
await cursor.close();
await client.query("COMMIT");
ok("large rows, cursors");

await client.query("SET TimeZone = 'Asia/Tokyo'");
for (let n = 0; n < 5; n++) {
  same((await client.query("SHOW TimeZone")).rows[0].TimeZone, "Asia/Tokyo");
  same((await pool.query("SHOW TimeZone")).rows[0].TimeZone === "Asia/Tokyo", false);
}
const other = new pg.Client({ ...options, application_name: "it's me", options: "-c TimeZone=Europe/Berlin", statement_timeout: 5000 });
await other.connect();
same((await other.query("SHOW application_name")).rows[0].application_name, "it's me");
same((await other.query("SHOW TimeZone")).rows[0].TimeZone, "Europe/Berlin");
same((await other.query("SHOW statement_timeout")).rows[0].statement_timeout, "5s");
ok("session settings");

if (session) {
  const heard = new Promise((resolve) => client.on("notification", resolve));
  await client.query(`LISTEN channel_${mark}`);
  await other.query(`NOTIFY channel_${mark}, 'payload'`);
  same((await heard).payload, "payload");
  ok("LISTEN");
}

await Promise.all(Array.from({ length: 200 }, async (_, n) => {
  same((await pool.query("SELECT $1::int AS n", [n])).rows[0].n, n);
}));
ok("two hundred queries at once");

await client.query(`DROP TABLE ${table}`);
await client.end();
await other.end();
await pool.end();
