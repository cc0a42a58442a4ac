-- Jobs for the language model.
CREATE TABLE IF NOT EXISTS llm_jobs (
    id SERIAL PRIMARY KEY,
    conversation_id INTEGER REFERENCES chat_conversations ON DELETE CASCADE,
    status TEXT NOT NULL DEFAULT 'pending',
    prompt TEXT NOT NULL,
    response TEXT,
    error TEXT,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated_at TIMESTAMPTZ NOT NULL DEFAULT now()
);
