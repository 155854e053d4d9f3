-- Makes the service's database and its two logins, for the PostgreSQL of
-- compose.yaml; run once by the image, as the superuser, when the volume is empty.
--
--   trakr_service    the running service, with the rights deploy/roles.sql names
--   trakr_migration  `trakr migrate`, which acts as the tables' owner
--
-- The passwords are read by psql itself, so that no argument list shows them.
\set ON_ERROR_STOP on
\set service `cut -d: -f5 /run/secrets/database`
\set migration `cut -d: -f5 /run/secrets/migration`
SET log_statement = 'none';
REVOKE ALL ON DATABASE postgres FROM PUBLIC;
CREATE DATABASE trakr;
\connect trakr
\i /etc/trakr/roles.sql
SET log_statement = 'none';
ALTER ROLE trakr_service LOGIN PASSWORD :'service';
CREATE ROLE trakr_migration LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD :'migration';
GRANT trakr_owner TO trakr_migration;
