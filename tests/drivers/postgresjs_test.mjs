// postgres.js: everything is prepared and pipelined.

import { createRequire } from "node:module";

import { database, fails, host, mark, ok, password, port, same, session, user } from "./common.mjs";

const require = createRequire(process.env.PGWEIR_NODE_MODULES + "/");
const postgres = require("postgres");

const options = { host, port, user, password, database, onnotice: () => {} };
const sql = postgres({ ...options, max: session ? 4 : 20 });
const table = sql(`postgresjs_${mark}`);

same([...await sql`SELECT ${40}::int + ${2}::int AS sum`], [{ sum: 42 }]);
same([...await sql`SELECT ${"it's"} AS t, ${sql.json({ a: 1 })} AS j, ${null}::int AS n`], [{ t: "it's", j: { a: 1 }, n: null }]);
ok("parameters");

await Promise.all(Array.from({ length: 500 }, async (_, n) => {
  same((await sql`SELECT ${n}::int * 2 AS n`)[0].n, n * 2);
}));
for (let n = 0; n < 300; n++) {
  same((await sql.unsafe(`SELECT $1::int + ${n} AS n`, [1], { prepare: true }))[0].n, n + 1);
}
ok("prepared statements, pipelined");

await sql`CREATE TABLE ${table} (n int PRIMARY KEY, t text)`;
await sql.begin(async (sql) => {
  await sql`INSERT INTO ${table} ${sql(Array.from({ length: 100 }, (_, n) => ({ n, t: `row ${n}` })))}`;
  await sql.savepoint(async (sql) => {
    await sql`INSERT INTO ${table} VALUES (1, 'again')`;
  }).catch((error) => same(error.code, "23505"));
});
same((await sql`SELECT count(*)::int AS n FROM ${table}`)[0].n, 100);
await fails(sql.begin(async (sql) => {
  await sql`DELETE FROM ${table}`;
  await sql`SELECT 1/0`;
}), "22012");
same((await sql`SELECT count(*)::int AS n FROM ${table}`)[0].n, 100);
await fails(sql`SELECT nonsense`, "42703");
ok("transactions and errors");

same((await sql`SELECT repeat('x', 10000000) AS wide`)[0].wide.length, 10_000_000);
let rows = 0;
await sql`SELECT n FROM generate_series(1, 5000) AS n`.cursor(500, (some) => { rows += some.length; });
same(rows, 5000);
ok("large rows, cursors");

const writable = await sql`COPY ${table} FROM STDIN`.writable();
await new Promise((resolve, reject) => {
  writable.on("error", reject).on("finish", resolve);
  for (let n = 1000; n < 3000; n++) writable.write(`${n}\tcopied\n`);
  writable.end();
});
let copied = "";
for await (const chunk of await sql`COPY (SELECT n FROM ${table} WHERE n >= 1000) TO STDOUT`.readable()) copied += chunk;
same(copied.split("\n").length - 1, 2000);
ok("COPY");

const slow = sql.unsafe(`SELECT pg_sleep(30) AS mark_${mark}`);
const ended = fails(slow, "57014");
// Before it runs there is nothing to cancel.
const running = () => sql`SELECT pid FROM pg_stat_activity WHERE state = 'active' AND query LIKE ${`%pg_sleep(30) AS mark_${mark}`}`;
while ((await running()).length === 0);
slow.cancel();
await ended;
same((await sql`SELECT 'alive' AS it`)[0].it, "alive");
ok("cancel");

const named = postgres({ ...options, max: 1, connection: { application_name: "it's me", TimeZone: "Asia/Tokyo" } });
for (let n = 0; n < 5; n++) {
  same((await named`SHOW TimeZone`)[0].TimeZone, "Asia/Tokyo");
  same((await sql`SHOW TimeZone`)[0].TimeZone === "Asia/Tokyo", false);
}
same((await named`SHOW application_name`)[0].application_name, "it's me");
await named.end();
ok("session settings");

if (session) {
  let heard;
  const payload = new Promise((resolve) => { heard = resolve; });
  await sql.listen(`channel_${mark}`, heard);
  await sql.notify(`channel_${mark}`, "payload");
  same(await payload, "payload");
  ok("LISTEN");
}

await sql`DROP TABLE ${table}`;
await sql.end();
