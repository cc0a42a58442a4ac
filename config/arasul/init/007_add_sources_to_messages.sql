-- What an answer rests on.
ALTER TABLE chat_messages ADD COLUMN IF NOT EXISTS sources JSONB;
