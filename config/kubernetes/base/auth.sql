-- What `auth_user` needs in PostgreSQL: to be run once in the database `postgres`, by a superuser.
--
--   psql -d postgres -v password="$PGWEIR_PASSWORD" -f auth.sql

CREATE ROLE pgweir LOGIN PASSWORD :'password';
CREATE SCHEMA pgweir AUTHORIZATION CURRENT_USER;
-- A secret is given out for roles that may log in and whose password has not run out. Superusers and those who replicate
-- come to PostgreSQL itself.
CREATE FUNCTION pgweir.user_lookup(name text) RETURNS TABLE (username text, secret text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog
BEGIN ATOMIC
    SELECT rolname::text, CASE WHEN rolvaliduntil < pg_catalog.now() THEN NULL ELSE rolpassword END
    FROM pg_catalog.pg_authid
    WHERE rolname = user_lookup.name AND rolcanlogin AND NOT rolsuper AND NOT rolreplication;
END;
REVOKE ALL ON FUNCTION pgweir.user_lookup(text) FROM PUBLIC;
GRANT USAGE ON SCHEMA pgweir TO pgweir;
GRANT EXECUTE ON FUNCTION pgweir.user_lookup(text) TO pgweir;
