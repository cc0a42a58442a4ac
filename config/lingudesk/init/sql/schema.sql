-- Lingudesk's six schemas with row-level security by user, in its empty database.
--
-- In tables of one user's rows the application sees only those of the user that it names with
-- SELECT set_config('app.user_id', '42', true)  at the beginning of a transaction; without that, none.

SET ROLE admin;

CREATE SCHEMA auth;
CREATE SCHEMA credit;
CREATE SCHEMA ai;
CREATE SCHEMA content;
CREATE SCHEMA audit;

-- Whose rows the transaction may see. Empty counts as nobody: that is what is left of a set_config(…, true).
CREATE FUNCTION public.app_user_id() RETURNS bigint LANGUAGE sql STABLE PARALLEL SAFE
    RETURN nullif(current_setting('app.user_id', true), '')::bigint;

-- public: what all others refer to.

CREATE TABLE public.users (
    user_id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    email        text NOT NULL UNIQUE,
    display_name text NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE public.routing_rules (
    rule_id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    pattern     text NOT NULL,
    destination text NOT NULL,
    priority    integer NOT NULL DEFAULT 100,
    enabled     boolean NOT NULL DEFAULT true
);

CREATE TABLE public.products (
    product_id  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    sku         text NOT NULL UNIQUE,
    name        text NOT NULL,
    price_cents integer NOT NULL CHECK (price_cents >= 0)
);

-- auth: how users prove who they are.

CREATE TABLE auth.credentials (
    user_id       bigint PRIMARY KEY REFERENCES public.users ON DELETE CASCADE,
    password_hash text NOT NULL,
    changed_at    timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE auth.refresh_tokens (
    token_id   uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id    bigint NOT NULL REFERENCES public.users ON DELETE CASCADE,
    token_hash bytea NOT NULL,
    expires_at timestamptz NOT NULL,
    revoked_at timestamptz
);
CREATE INDEX ON auth.refresh_tokens (user_id);

CREATE TABLE auth.oauth_accounts (
    provider   text NOT NULL,
    subject    text NOT NULL,
    user_id    bigint NOT NULL REFERENCES public.users ON DELETE CASCADE,
    linked_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (provider, subject)
);
CREATE INDEX ON auth.oauth_accounts (user_id);

-- credit: what users have and spend.

CREATE TABLE credit.balances (
    user_id    bigint PRIMARY KEY REFERENCES public.users ON DELETE CASCADE,
    credits    bigint NOT NULL DEFAULT 0 CHECK (credits >= 0),
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE credit.transactions (
    transaction_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id        bigint NOT NULL REFERENCES public.users ON DELETE CASCADE,
    amount         bigint NOT NULL CHECK (amount <> 0),
    reason         text NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ON credit.transactions (user_id, created_at);

CREATE TABLE credit.subscriptions (
    subscription_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id         bigint NOT NULL REFERENCES public.users ON DELETE CASCADE,
    product_id      bigint NOT NULL REFERENCES public.products,
    starts_at       timestamptz NOT NULL DEFAULT now(),
    ends_at         timestamptz
);
CREATE INDEX ON credit.subscriptions (user_id);

-- ai: answers worth keeping, and who asked for how much.

CREATE TABLE ai.cache_entries (
    query_hash bytea PRIMARY KEY,
    plugin     text NOT NULL,
    answer     jsonb NOT NULL,
    hits       bigint NOT NULL DEFAULT 0,
    expires_at timestamptz
);

CREATE TABLE ai.usage_logs (
    usage_id   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id    bigint NOT NULL REFERENCES public.users ON DELETE CASCADE,
    plugin     text NOT NULL,
    tokens     integer NOT NULL CHECK (tokens >= 0),
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ON ai.usage_logs (user_id, created_at);

CREATE TABLE ai.plugin_configs (
    plugin  text PRIMARY KEY,
    enabled boolean NOT NULL DEFAULT true,
    config  jsonb NOT NULL DEFAULT '{}'
);

-- content: what users learn.

CREATE TABLE content.languages (
    code text PRIMARY KEY,
    name text NOT NULL
);

CREATE TABLE content.decks (
    deck_id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id       bigint NOT NULL REFERENCES public.users ON DELETE CASCADE,
    language_code text NOT NULL REFERENCES content.languages,
    title         text NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ON content.decks (user_id);

CREATE TABLE content.cards (
    card_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    deck_id bigint NOT NULL REFERENCES content.decks ON DELETE CASCADE,
    user_id bigint NOT NULL REFERENCES public.users ON DELETE CASCADE,
    front   text NOT NULL,
    back    text NOT NULL
);
CREATE INDEX ON content.cards (deck_id);

CREATE TABLE content.review_logs (
    review_id   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    card_id     bigint NOT NULL REFERENCES content.cards ON DELETE CASCADE,
    user_id     bigint NOT NULL REFERENCES public.users ON DELETE CASCADE,
    grade       smallint NOT NULL CHECK (grade BETWEEN 0 AND 5),
    reviewed_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ON content.review_logs (user_id, reviewed_at);

-- audit: who did what, a partition a month.

CREATE TABLE audit.logs (
    log_id    bigint GENERATED BY DEFAULT AS IDENTITY,
    logged_at timestamptz NOT NULL DEFAULT now(),
    user_id   bigint,
    action    text NOT NULL,
    detail    jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (log_id, logged_at)
) PARTITION BY RANGE (logged_at);
CREATE INDEX ON audit.logs (user_id, logged_at);

-- Rows that no month was made for are kept rather than refused.
CREATE TABLE audit.logs_other PARTITION OF audit.logs DEFAULT;

-- Makes the partition of the month that holds `day`, such as audit.logs_2025_01, unless it is there; what was written
-- in that month before moves in. Called monthly, ahead of time.
CREATE FUNCTION audit.make_partition(day date) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    month date := date_trunc('month', day);
    next_month date := month + interval '1 month';
    name text := to_char(month, '"logs_"YYYY"_"MM');
BEGIN
    IF to_regclass(format('audit.%I', name)) IS NOT NULL THEN
        RETURN name;
    END IF;
    -- A default partition with rows of that month would refuse a partition made in one step.
    EXECUTE format('CREATE TABLE audit.%I (LIKE audit.logs INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', name);
    EXECUTE format('WITH moved AS (DELETE FROM audit.logs_other WHERE logged_at >= %L AND logged_at < %L RETURNING *)
                    INSERT INTO audit.%I SELECT * FROM moved', month, next_month, name);
    EXECUTE format('ALTER TABLE audit.logs ATTACH PARTITION audit.%I FOR VALUES FROM (%L) TO (%L)',
                   name, month, next_month);
    RETURN name;
END $$;

-- Removes what lies wholly before the month that holds `day`: partitions of months, and such rows without one.
-- Answers with what it removed.
CREATE FUNCTION audit.drop_before(day date) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    month date := date_trunc('month', day);
    name text;
    removed bigint;
BEGIN
    FOR name IN
        SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'audit.logs'::regclass AND c.relname ~ '^logs_[0-9]{4}_[0-9]{2}$'
            AND to_date(c.relname, '"logs_"YYYY"_"MM') < month
        ORDER BY 1
    LOOP
        EXECUTE format('DROP TABLE audit.%I', name);
        RETURN NEXT name;
    END LOOP;
    DELETE FROM audit.logs_other WHERE logged_at < month;
    GET DIAGNOSTICS removed = ROW_COUNT;
    IF removed > 0 THEN
        RETURN NEXT format('%s rows of logs_other', removed);
    END IF;
END $$;

-- The monthly job: partitions for this month and the next `ahead`, and nothing older than `keep` whole months.
CREATE FUNCTION audit.maintain(keep integer, ahead integer, today date DEFAULT current_date) RETURNS SETOF text
LANGUAGE plpgsql AS $$
BEGIN
    IF keep < 1 OR ahead < 1 THEN
        RAISE EXCEPTION 'audit.maintain: keep and ahead are at least one month';
    END IF;
    PERFORM audit.make_partition((today + make_interval(months => n))::date) FROM generate_series(0, ahead) AS n;
    RETURN QUERY SELECT audit.drop_before((today - make_interval(months => keep))::date);
END $$;
-- Only the owner runs these.
REVOKE ALL ON FUNCTION audit.make_partition, audit.drop_before, audit.maintain FROM PUBLIC;

SELECT audit.maintain(12, 3);
SELECT audit.make_partition((current_date - interval '1 month')::date);

-- Row-level security: every table with a user_id shows a user's own rows only. The owner, `admin`, sees all.

DO $$
DECLARE
    it record;
BEGIN
    FOR it IN
        SELECT n.nspname AS schema, c.relname AS name
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'user_id'
        WHERE n.nspname IN ('public', 'auth', 'credit', 'ai', 'content', 'audit')
            AND c.relkind IN ('r', 'p') AND NOT c.relispartition
    LOOP
        EXECUTE format('ALTER TABLE %I.%I ENABLE ROW LEVEL SECURITY', it.schema, it.name);
        EXECUTE format('CREATE POLICY own_rows ON %I.%I USING (user_id = public.app_user_id())', it.schema, it.name);
    END LOOP;
END $$;

-- The application reads and writes rows; logs are only ever added to, and partitions are reached through their table.

GRANT USAGE ON SCHEMA public, auth, credit, ai, content, audit TO application;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public, auth, credit, ai, content TO application;
GRANT SELECT, INSERT ON audit.logs TO application;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA public, auth, credit, ai, content, audit TO application;

RESET ROLE;
