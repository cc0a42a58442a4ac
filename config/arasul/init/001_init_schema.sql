-- Metrics, kept for seven days.
CREATE TABLE IF NOT EXISTS metrics_cpu (timestamp TIMESTAMPTZ PRIMARY KEY DEFAULT now(), value DOUBLE PRECISION NOT NULL);
CREATE TABLE IF NOT EXISTS metrics_ram (timestamp TIMESTAMPTZ PRIMARY KEY DEFAULT now(), value DOUBLE PRECISION NOT NULL);
CREATE TABLE IF NOT EXISTS metrics_gpu (timestamp TIMESTAMPTZ PRIMARY KEY DEFAULT now(), value DOUBLE PRECISION NOT NULL);
CREATE TABLE IF NOT EXISTS metrics_temperature (timestamp TIMESTAMPTZ PRIMARY KEY DEFAULT now(), value DOUBLE PRECISION NOT NULL);
CREATE TABLE IF NOT EXISTS metrics_disk (
    timestamp TIMESTAMPTZ PRIMARY KEY DEFAULT now(),
    used BIGINT NOT NULL,
    free BIGINT NOT NULL,
    percent DOUBLE PRECISION NOT NULL
);

-- One row for each table that forgets, so that later migrations add theirs.
CREATE TABLE IF NOT EXISTS retention_rules (
    table_name TEXT PRIMARY KEY,
    time_column TEXT NOT NULL,
    keep INTERVAL NOT NULL
);
INSERT INTO retention_rules
SELECT 'metrics_' || name, 'timestamp', INTERVAL '7 days' FROM unnest(ARRAY['cpu', 'ram', 'gpu', 'temperature', 'disk']) AS name
ON CONFLICT DO NOTHING;

CREATE OR REPLACE FUNCTION run_retention() RETURNS TABLE (removed_from TEXT, removed BIGINT) LANGUAGE plpgsql AS $$
DECLARE
    rule retention_rules;
BEGIN
    FOR rule IN SELECT * FROM retention_rules ORDER BY table_name LOOP
        EXECUTE format('DELETE FROM %I WHERE %I < now() - $1', rule.table_name, rule.time_column) USING rule.keep;
        GET DIAGNOSTICS removed = ROW_COUNT;
        removed_from := rule.table_name;
        RETURN NEXT;
    END LOOP;
END
$$;
