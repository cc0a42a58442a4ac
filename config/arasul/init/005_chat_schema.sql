-- Chats: deleted ones are marked first, and go after thirty days.
CREATE TABLE IF NOT EXISTS chat_conversations (
    id SERIAL PRIMARY KEY,
    title TEXT,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    deleted_at TIMESTAMPTZ,
    message_count INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS chat_messages (
    id SERIAL PRIMARY KEY,
    conversation_id INTEGER NOT NULL REFERENCES chat_conversations ON DELETE CASCADE,
    role TEXT NOT NULL,
    content TEXT NOT NULL,
    thinking TEXT,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS chat_messages_conversation ON chat_messages (conversation_id, created_at);

CREATE OR REPLACE FUNCTION count_messages() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
    UPDATE chat_conversations
    SET message_count = message_count + CASE TG_OP WHEN 'INSERT' THEN 1 ELSE -1 END, updated_at = now()
    WHERE id = CASE TG_OP WHEN 'INSERT' THEN NEW.conversation_id ELSE OLD.conversation_id END;
    RETURN NULL;
END
$$;
CREATE OR REPLACE TRIGGER chat_messages_count AFTER INSERT OR DELETE ON chat_messages
    FOR EACH ROW EXECUTE FUNCTION count_messages();

INSERT INTO retention_rules VALUES ('chat_conversations', 'deleted_at', INTERVAL '30 days') ON CONFLICT DO NOTHING;
