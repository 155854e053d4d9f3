-- The roles of Trakr's database and what each may do to the database itself.
-- What they may do to tables stands in the migrations.
--
-- For the operator: an administrator (superuser, or CREATEROLE and owner of the
-- database) runs this once in the new database, before `trakr migrate`; running
-- it again changes nothing. `trakr migrate` runs it itself when its login may.
-- It gives nobody a password. Do that for the roles that log in, for example
--   ALTER ROLE trakr_service LOGIN PASSWORD '…';
--   GRANT trakr_owner TO the_login_of_your_migrations;
--
--   trakr_owner    owns the tables; migrations and the log's retention act as it
--   trakr_door     owns the functions that write the audit and release values
--   trakr_sweep    owns the functions that count rows in every table, values never
--   trakr_service  the running service: no SELECT on values, no INSERT on the audit
--   trakr_reader   reviewers' own tools: the audit and the evidence, no values
--   trakr_backup   pg_dump: sees every row

SELECT pg_advisory_xact_lock(hashtextextended('trakr/roles', 0));

DO $$
DECLARE
    r text;
BEGIN
    FOREACH r IN ARRAY ARRAY['trakr_owner', 'trakr_door', 'trakr_sweep', 'trakr_service', 'trakr_reader', 'trakr_backup'] LOOP
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = r) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN NOINHERIT', r);
        END IF;
    END LOOP;
    -- Functions change their owner in the migrations; only a member may give to.
    GRANT trakr_door, trakr_sweep TO trakr_owner;
    IF NOT (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user) THEN
        EXECUTE format('GRANT trakr_owner TO %I', current_user);
    END IF;
END $$;

-- The two below need an administrator with these rights to give. Without them
-- sweeps say "blind" of tables they may not count, and pg_dump by trakr_backup
-- refuses to run: both fail loudly, neither hides anything.
DO $$
BEGIN
    ALTER ROLE trakr_sweep INHERIT; -- first: a membership keeps what its role was when granted
    GRANT pg_read_all_data TO trakr_sweep;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE NOTICE 'trakr_sweep is not a member of pg_read_all_data: grant it SELECT on every table that is not Trakr''s own';
END $$;
DO $$
BEGIN
    ALTER ROLE trakr_backup BYPASSRLS INHERIT;
    GRANT pg_read_all_data TO trakr_backup;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE NOTICE 'trakr_backup may not bypass row-level security: back up as a superuser or with the provider''s tool';
END $$;

-- Nobody but these, and nobody may make temporary tables or tables in public.
DO $$
BEGIN
    EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO trakr_owner, trakr_service, trakr_reader, trakr_backup', current_database());
    EXECUTE format('GRANT CREATE ON DATABASE %I TO trakr_owner', current_database());
END $$;
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT USAGE, CREATE ON SCHEMA public TO trakr_owner;

CREATE SCHEMA IF NOT EXISTS trakr AUTHORIZATION trakr_owner;
CREATE SCHEMA IF NOT EXISTS door AUTHORIZATION trakr_owner;

-- What a version before these roles created belongs to the owner from now on.
DO $$
DECLARE
    o record;
BEGIN
    FOR o IN
        SELECT format('ALTER SCHEMA %I OWNER TO trakr_owner', n.nspname) AS change
        FROM pg_catalog.pg_namespace AS n
        WHERE n.nspname IN ('trakr', 'door') AND pg_get_userbyid(n.nspowner) <> 'trakr_owner'
        UNION ALL
        SELECT format('ALTER TABLE %I.%I OWNER TO trakr_owner', n.nspname, c.relname)
        FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
        WHERE n.nspname IN ('trakr', 'door') AND c.relkind IN ('r', 'p') AND pg_get_userbyid(c.relowner) <> 'trakr_owner'
        UNION ALL
        SELECT format('ALTER FUNCTION %s OWNER TO trakr_owner', p.oid::regprocedure)
        FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
        WHERE n.nspname IN ('trakr', 'door') AND pg_get_userbyid(p.proowner) NOT IN ('trakr_owner', 'trakr_door', 'trakr_sweep')
    LOOP
        EXECUTE o.change;
    END LOOP;
END $$;
