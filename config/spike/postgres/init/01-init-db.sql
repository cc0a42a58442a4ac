-- Roles, the tenants' isolation and what monitoring may see. The application's tables are Prisma's; what makes a table a
-- tenant's is app.protect('table'), which its migrations call.
\getenv app_password SPIKE_APP_PASSWORD
\getenv monitor_password SPIKE_MONITOR_PASSWORD

CREATE ROLE spike_app LOGIN PASSWORD :'app_password' CONNECTION LIMIT 40;
CREATE ROLE spike_monitor LOGIN PASSWORD :'monitor_password' CONNECTION LIMIT 5;
GRANT pg_monitor TO spike_monitor;
ALTER ROLE spike_monitor SET default_transaction_read_only = on;

REVOKE ALL ON DATABASE spike_dev FROM PUBLIC;
GRANT CONNECT, TEMPORARY ON DATABASE spike_dev TO spike_app;
GRANT CONNECT ON DATABASE spike_dev TO spike_monitor;
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO spike_app;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO spike_app;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT USAGE, SELECT ON SEQUENCES TO spike_app;

CREATE SCHEMA app;
GRANT USAGE ON SCHEMA app TO spike_app;

-- The tenant of the running transaction: SELECT set_config('app.tenant_id', $1, true).
CREATE FUNCTION app.tenant() RETURNS text LANGUAGE sql STABLE
RETURN nullif(current_setting('app.tenant_id', true), '');

-- Rows of a table with a column tenant_id are seen and written by their own tenant alone.
CREATE FUNCTION app.protect(tenants_table regclass) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', tenants_table);
    EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', tenants_table);
    EXECUTE format(
        'CREATE POLICY tenant ON %s USING (tenant_id::text = app.tenant()) WITH CHECK (tenant_id::text = app.tenant())',
        tenants_table
    );
END
$$;
REVOKE ALL ON FUNCTION app.protect(regclass) FROM PUBLIC;

-- Full-text search in Hebrew, for which PostgreSQL has no dictionary: words as they are written.
CREATE TEXT SEARCH CONFIGURATION public.hebrew (COPY = simple);

-- What scripts/monitor.sh asks for.
CREATE SCHEMA monitoring;
GRANT USAGE ON SCHEMA monitoring TO spike_monitor;
CREATE VIEW monitoring.locks AS
SELECT waiting.pid, waiting.usename, waiting.application_name, now() - waiting.query_start AS since,
       pg_blocking_pids(waiting.pid) AS blocked_by, left(waiting.query, 100) AS query
FROM pg_stat_activity AS waiting
WHERE cardinality(pg_blocking_pids(waiting.pid)) > 0;
CREATE VIEW monitoring.connections AS
SELECT usename, coalesce(state, 'background') AS state, count(*) AS connections
FROM pg_stat_activity GROUP BY 1, 2;
CREATE VIEW monitoring.tables AS
SELECT schemaname, relname, pg_total_relation_size(relid) AS bytes, n_live_tup AS rows,
       seq_scan, idx_scan, last_autovacuum
FROM pg_stat_user_tables;
GRANT SELECT ON ALL TABLES IN SCHEMA monitoring TO spike_monitor;
