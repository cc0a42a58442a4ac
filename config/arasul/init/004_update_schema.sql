-- Updates of the platform: permanent.
CREATE TABLE IF NOT EXISTS update_events (
    id SERIAL PRIMARY KEY,
    version_from TEXT,
    version_to TEXT NOT NULL,
    status TEXT NOT NULL,
    source TEXT,
    components_updated JSONB,
    error_message TEXT,
    started_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    completed_at TIMESTAMPTZ,
    duration_seconds INTEGER,
    requires_reboot BOOLEAN NOT NULL DEFAULT false,
    initiated_by TEXT
);
CREATE TABLE IF NOT EXISTS update_backups (
    id SERIAL PRIMARY KEY,
    backup_path TEXT NOT NULL,
    update_event_id INTEGER REFERENCES update_events,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now()
);
CREATE TABLE IF NOT EXISTS update_files (
    id SERIAL PRIMARY KEY,
    filename TEXT NOT NULL,
    file_path TEXT NOT NULL,
    checksum_sha256 TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS update_rollbacks (
    id SERIAL PRIMARY KEY,
    original_update_event_id INTEGER NOT NULL REFERENCES update_events,
    backup_id INTEGER REFERENCES update_backups,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now()
);
CREATE TABLE IF NOT EXISTS component_updates (
    id SERIAL PRIMARY KEY,
    update_event_id INTEGER NOT NULL REFERENCES update_events,
    component_name TEXT NOT NULL,
    status TEXT NOT NULL DEFAULT 'pending'
);
