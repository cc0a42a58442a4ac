-- The roles of the cluster, each with no more than it needs. Passwords come from the environment.
--
-- admin    owns the schemas and changes them: migrations, psql
-- db_user  what the application logs in as: reads and writes rows, of the user that it names
-- monitor  reads statistics, no rows: exporters, health checks

\getenv admin_password ADMIN_PASSWORD
\getenv db_user DB_USER
\getenv db_password DB_PASSWORD
\getenv monitor_password MONITOR_PASSWORD

CREATE ROLE admin LOGIN PASSWORD :'admin_password';
-- What the application may do is granted to this role, whatever DB_USER calls the login.
CREATE ROLE application NOLOGIN NOBYPASSRLS;
CREATE ROLE :"db_user" LOGIN PASSWORD :'db_password' NOBYPASSRLS IN ROLE application;
CREATE ROLE monitor LOGIN PASSWORD :'monitor_password' CONNECTION LIMIT 5 IN ROLE pg_monitor;
