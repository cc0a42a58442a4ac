// What the applications' clients share: node-postgres, and where to connect to.

import assert from "node:assert/strict";
import { createRequire } from "node:module";

export const require = createRequire(process.env.PGWEIR_NODE_MODULES + "/");
export const pg = require("pg");
export const { DB_USER: user, DB_PASSWORD: password, DB_NAME: database } = process.env;
export const [host, port] = ["127.0.0.1", Number(process.env.DB_PORT)];

// Two users of an application in turn, on one server connection: a transaction sees the rows of the user that it names, and
// one that names nobody sees none, whatever another session has set for itself. The pool has `size` server connections, of
// which all but one are held by others.
export async function usersInTurn(size, connect) {
  const [owner, ada, grace, nobody] = [await connect(), await connect(), await connect(), await connect()];
  await owner.query("CREATE TABLE notes_of_users (owner text, title text)");
  await owner.query("INSERT INTO notes_of_users VALUES ('ada', 'of ada'), ('grace', 'of grace')");
  await owner.query("CREATE VIEW own_notes AS SELECT title FROM notes_of_users WHERE owner = current_setting('app.user_id', true)");
  const servers = { ada: new Set(), grace: new Set(), nobody: new Set() };
  const begin = async (client, name) => {
    await client.query("BEGIN");
    if (name !== "nobody") await client.query("SELECT set_config('app.user_id', $1, true)", [name]);
  };
  const titles = async (client, name) => {
    const { rows } = await client.query("SELECT pg_backend_pid() AS server, (SELECT string_agg(title, ',') FROM own_notes) AS titles");
    servers[name].add(rows[0].server);
    return rows[0].titles;
  };
  const seen = async (client, name) => {
    await begin(client, name);
    const answer = await titles(client, name);
    await client.query("COMMIT");
    return answer;
  };
  const others = [];
  for (let n = 1; n < size; n++) {
    const other = await connect();
    await other.query("BEGIN");
    others.push(other);
  }
  for (let round = 0; round < 10; round++) {
    same(await seen(ada, "ada"), "of ada");
    same(await seen(grace, "grace"), "of grace");
    same(await seen(nobody, "nobody"), null);
    // One who names his user for longer than a transaction leaves it to nobody.
    if (round === 5) await ada.query("SET app.user_id = 'ada'");
  }
  same(servers.ada.size, 1);
  same([servers.grace, servers.nobody], [servers.ada, servers.ada]);
  await Promise.all(others.map((client) => client.end()));
  // At the same time, each in a transaction of its own.
  await begin(ada, "ada");
  await begin(grace, "grace");
  same(await titles(ada, "ada"), "of ada");
  same(await titles(grace, "grace"), "of grace");
  await Promise.all([ada.query("COMMIT"), grace.query("ROLLBACK")]);
  await owner.query("DROP VIEW own_notes");
  await owner.query("DROP TABLE notes_of_users");
  await Promise.all([owner, ada, grace, nobody].map((client) => client.end()));
}

export function same(got, expected) {
  assert.deepEqual(got, expected);
}
