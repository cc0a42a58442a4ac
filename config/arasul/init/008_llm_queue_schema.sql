-- The jobs' queue: a worker takes one by SELECT … FOR UPDATE SKIP LOCKED.
CREATE TABLE IF NOT EXISTS llm_queue (
    id SERIAL PRIMARY KEY,
    job_id INTEGER NOT NULL REFERENCES llm_jobs ON DELETE CASCADE,
    priority INTEGER NOT NULL DEFAULT 0,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    started_at TIMESTAMPTZ
);
CREATE INDEX IF NOT EXISTS llm_queue_waiting ON llm_queue (priority DESC, id) WHERE started_at IS NULL;
