-- The management database: which services there are, their backups, who did what.

CREATE TABLE IF NOT EXISTS service_configs (
    id SERIAL PRIMARY KEY,
    service_name VARCHAR(50) UNIQUE NOT NULL,
    database_name VARCHAR(50) NOT NULL,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP
);

CREATE TABLE IF NOT EXISTS backup_log (
    id SERIAL PRIMARY KEY,
    service_name VARCHAR(50) NOT NULL,
    backup_type VARCHAR(20) NOT NULL,
    backup_path VARCHAR(255),
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    success BOOLEAN DEFAULT true
);
CREATE INDEX IF NOT EXISTS backup_log_service ON backup_log (service_name, created_at DESC);

CREATE TABLE IF NOT EXISTS user_activity (
    id SERIAL PRIMARY KEY,
    service_name VARCHAR(50) NOT NULL,
    action VARCHAR(100) NOT NULL,
    user_identifier VARCHAR(100),
    ip_address INET,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP
);
CREATE INDEX IF NOT EXISTS user_activity_service ON user_activity (service_name, created_at DESC);

CREATE OR REPLACE FUNCTION log_user_activity(service TEXT, what TEXT, who TEXT, address INET DEFAULT NULL)
RETURNS VOID LANGUAGE sql AS $$
    INSERT INTO user_activity (service_name, action, user_identifier, ip_address)
    VALUES (service, what, who, address)
$$;

CREATE OR REPLACE VIEW service_status AS
SELECT
    sc.service_name,
    sc.database_name,
    sc.created_at AS setup_date,
    CASE WHEN EXISTS (
        SELECT 1 FROM pg_stat_activity WHERE datname = sc.database_name AND state = 'active'
    ) THEN 'active' ELSE 'inactive' END AS status,
    pg_size_pretty(pg_database_size(sc.database_name::name)) AS database_size
FROM service_configs sc;

INSERT INTO service_configs (service_name, database_name)
SELECT name, name FROM unnest(ARRAY['vikunja', 'hedgedoc', 'linkding', 'navidrome']) AS name
ON CONFLICT (service_name) DO NOTHING;
