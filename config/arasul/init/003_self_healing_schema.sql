-- What the platform healed by itself, kept for seven days.
CREATE TABLE IF NOT EXISTS self_healing_events (
    id SERIAL PRIMARY KEY,
    event_type TEXT NOT NULL,
    severity TEXT NOT NULL,
    description TEXT,
    action_taken TEXT,
    timestamp TIMESTAMPTZ NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS self_healing_events_timestamp ON self_healing_events (timestamp DESC);
CREATE TABLE IF NOT EXISTS workflow_activity (
    id SERIAL PRIMARY KEY,
    workflow_name TEXT NOT NULL,
    status TEXT NOT NULL,
    timestamp TIMESTAMPTZ NOT NULL DEFAULT now(),
    duration_ms INTEGER,
    error TEXT
);
CREATE INDEX IF NOT EXISTS workflow_activity_timestamp ON workflow_activity (timestamp DESC);
INSERT INTO retention_rules VALUES
    ('self_healing_events', 'timestamp', INTERVAL '7 days'),
    ('workflow_activity', 'timestamp', INTERVAL '7 days')
ON CONFLICT DO NOTHING;
