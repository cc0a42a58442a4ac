// The API's pool, three pods of it, as services/api-backend/database/db-pool.js makes it of the ConfigMap.

import { database, host, password, pg, port, same, user, usersInTurn } from "./common.mjs";

const ssl = process.env.DB_SSL_MODE === "require" ? { rejectUnauthorized: false } : false;
const pods = [1, 2, 3].map(() => new pg.Pool({
  host, port, database, user, password,
  max: parseInt(process.env.DB_POOL_MAX),
  idleTimeoutMillis: parseInt(process.env.DB_POOL_IDLE_TIMEOUT),
  connectionTimeoutMillis: parseInt(process.env.DB_POOL_CONNECTION_TIMEOUT),
  ssl,
}));

// All 150 connections are open at once before anybody works.
const clients = [];
for (const pod of pods) clients.push(...await Promise.all(Array.from({ length: 50 }, () => pod.connect())));
const answers = await Promise.all(clients.map(async (client, n) => {
  const { rows } = await client.query("SELECT $1::int AS n, pg_sleep(0.02), pg_backend_pid() AS server", [n]);
  same(rows[0].n, n);
  return rows[0].server;
}));
const servers = new Set(answers).size;
if (servers > 40) throw new Error(`${servers} servers`);

await clients[0].query("CREATE TABLE IF NOT EXISTS admin_roles (id serial PRIMARY KEY, user_id text, role text)");
await clients[0].query("BEGIN");
await clients[0].query("INSERT INTO admin_roles (user_id, role) SELECT n::text, 'admin' FROM generate_series(1, 100) AS n");
same((await clients[1].query("SELECT count(*)::int AS n FROM admin_roles")).rows[0].n, 0);
await clients[0].query("COMMIT");
same((await clients[2].query("SELECT count(*)::int AS n FROM admin_roles")).rows[0].n, 100);

clients.forEach((client) => client.release());
await Promise.all(pods.map((pod) => pod.end()));
await usersInTurn(40, async () => {
  const client = new pg.Client({ host, port, user, password, database, ssl });
  await client.connect();
  return client;
});
console.log("servers", servers);
