-- Who may do what with the database as a whole. A dump does not carry this, so a restored database gets it as well.

SELECT format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database()) \gexec
SELECT format('GRANT CONNECT, TEMPORARY ON DATABASE %I TO application', current_database()) \gexec
SELECT format('GRANT CONNECT ON DATABASE %I TO monitor', current_database()) \gexec
SELECT format('GRANT ALL ON DATABASE %I TO admin', current_database()) \gexec
REVOKE ALL ON SCHEMA public FROM PUBLIC;
ALTER SCHEMA public OWNER TO admin;
