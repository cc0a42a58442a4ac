// HedgeDoc comes by node-postgres (through Sequelize): its migrations, then notes from a pool.

import { database, host, password, pg, port, same, user, usersInTurn } from "./common.mjs";

const pool = new pg.Pool({ host, port, user, password, database, max: 20 });
await pool.query('CREATE TABLE IF NOT EXISTS "Notes" (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), title text, content text)');
await Promise.all(Array.from({ length: 40 }, (_, n) =>
  pool.query('INSERT INTO "Notes" (title, content) VALUES ($1, $2)', [`note ${n}`, "# text"])));
same((await pool.query('SELECT count(*)::int AS n FROM "Notes"')).rows[0].n, 40);
await pool.end();

await usersInTurn(4, async () => {
  const client = new pg.Client({ host, port, user, password, database });
  await client.connect();
  return client;
});
