// LLM workers on the queue: each takes a job that no other has, in a transaction, from pools of the size they configure.

import { database, host, password, pg, port, same, user, usersInTurn } from "./common.mjs";

const JOBS = 60;
const pool = new pg.Pool({ host, port, user, password, database, max: 20, idleTimeoutMillis: 30000 });
for (let n = 0; n < JOBS; n++) {
  const job = await pool.query("INSERT INTO llm_jobs (prompt) VALUES ($1) RETURNING id", [`prompt ${n}`]);
  await pool.query("INSERT INTO llm_queue (job_id, priority) VALUES ($1, $2)", [job.rows[0].id, n % 3]);
}

async function worker() {
  const done = [];
  for (;;) {
    const client = await pool.connect();
    try {
      await client.query("BEGIN");
      const { rows } = await client.query(
        "SELECT id, job_id FROM llm_queue WHERE started_at IS NULL ORDER BY priority DESC, id LIMIT 1 FOR UPDATE SKIP LOCKED");
      if (rows.length === 0) {
        await client.query("COMMIT");
        return done;
      }
      await client.query("UPDATE llm_queue SET started_at = now() WHERE id = $1", [rows[0].id]);
      await client.query("UPDATE llm_jobs SET status = 'done', response = 'x' WHERE id = $1", [rows[0].job_id]);
      await client.query("COMMIT");
      done.push(rows[0].job_id);
    } finally {
      client.release();
    }
  }
}

const taken = (await Promise.all(Array.from({ length: 10 }, worker))).flat();
same(taken.length, JOBS);
same(new Set(taken).size, JOBS);
await pool.end();

await usersInTurn(20, async () => {
  const client = new pg.Client({ host, port, user, password, database });
  await client.connect();
  return client;
});
