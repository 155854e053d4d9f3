-- The facts of the live catalog, one a row, each a sentence under the control that it
-- belongs to. expect.go has the same sentences for a database that was not changed. Run
-- with search_path = pg_catalog, so that every other name is qualified, and in UTC. Nothing
-- here needs more than the right to connect.
WITH ours AS (
    SELECT * FROM pg_roles
    WHERE rolname IN ('trakr_owner', 'trakr_door', 'trakr_sweep', 'trakr_service', 'trakr_reader', 'trakr_backup')
), restrained AS (
    SELECT * FROM ours WHERE rolname IN ('trakr_door', 'trakr_sweep', 'trakr_service', 'trakr_reader')
), grantees AS (
    SELECT oid, rolname::text AS name FROM ours WHERE rolname <> 'trakr_owner' UNION ALL SELECT 0, 'PUBLIC'
), tables AS (
    SELECT c.*, n.nspname || '.' || c.relname AS name,
        c.relname ~ '^(audit_|log_)' AS is_log, c.relname = 'tenant_fields' AS is_values
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE n.nspname IN ('trakr', 'door') AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
), functions AS (
    SELECT p.*, p.oid::regprocedure::text AS name
    FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
    WHERE n.nspname IN ('trakr', 'door')
), months AS (
    SELECT t.* FROM pg_inherits AS i JOIN tables AS t ON t.oid = i.inhrelid
    WHERE i.inhparent = to_regclass('trakr.audit_events')
), named (oid, name) AS (
    SELECT oid, rolname::text FROM pg_roles UNION ALL SELECT 0, 'PUBLIC'
)

-- The roles, and every attribute beyond NOLOGIN NOINHERIT.
SELECT 'roles' AS control, o.rolname || ' ' || a.what AS fact
FROM ours AS o, LATERAL (VALUES ('exists', true), ('LOGIN', o.rolcanlogin), ('INHERIT', o.rolinherit), ('SUPERUSER', o.rolsuper),
    ('BYPASSRLS', o.rolbypassrls), ('CREATEROLE', o.rolcreaterole), ('CREATEDB', o.rolcreatedb), ('REPLICATION', o.rolreplication)) AS a (what, has)
WHERE a.has

-- Who may act as whom: what our roles are members of, and who is a member of the
-- two that own functions. From PostgreSQL 16 on, whoever makes a role administers
-- it without being able to act as it.
UNION ALL
SELECT 'memberships', u.name || ' is a member of ' || r.name
FROM pg_auth_members AS m JOIN named AS u ON u.oid = m.member JOIN named AS r ON r.oid = m.roleid
WHERE (m.member IN (SELECT oid FROM ours) OR r.name IN ('trakr_door', 'trakr_sweep'))
    AND coalesce((to_jsonb(m) ->> 'set_option')::boolean OR (to_jsonb(m) ->> 'inherit_option')::boolean, true)

UNION ALL
SELECT 'owners', 'schema ' || n.nspname || ' belongs to ' || pg_get_userbyid(n.nspowner) FROM pg_namespace AS n WHERE n.nspname IN ('trakr', 'door')
UNION ALL
SELECT 'owners', name || ' belongs to ' || pg_get_userbyid(relowner) FROM tables
UNION ALL
SELECT 'owners', name || ' belongs to ' || pg_get_userbyid(proowner) FROM functions

-- Grants on tables and columns: all that our roles and PUBLIC have; on the log also
-- what other roles have beyond reading; on the values everything that other roles have.
UNION ALL
SELECT 'table grants', g.name || ' may ' || a.privilege_type || ' ' || t.name
FROM tables AS t, LATERAL aclexplode(coalesce(t.relacl, acldefault(CASE t.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", t.relowner))) AS a
JOIN named AS g ON g.oid = a.grantee
WHERE a.grantee <> t.relowner AND (a.grantee IN (SELECT oid FROM grantees) OR t.is_values OR (t.is_log AND a.privilege_type <> 'SELECT'))
UNION ALL
SELECT 'table grants', g.name || ' may ' || a.privilege_type || ' ' || t.name || ' (' || string_agg(c.attname, ', ' ORDER BY c.attname) || ')'
FROM tables AS t JOIN pg_attribute AS c ON c.attrelid = t.oid AND c.attacl IS NOT NULL, LATERAL aclexplode(c.attacl) AS a
JOIN named AS g ON g.oid = a.grantee
WHERE a.grantee <> t.relowner AND (a.grantee IN (SELECT oid FROM grantees) OR t.is_values OR (t.is_log AND a.privilege_type <> 'SELECT'))
GROUP BY g.name, a.privilege_type, t.name

UNION ALL
SELECT 'function grants', g.name || ' may call ' || f.name
FROM functions AS f, LATERAL aclexplode(coalesce(f.proacl, acldefault('f', f.proowner))) AS a JOIN named AS g ON g.oid = a.grantee
WHERE a.grantee <> f.proowner

-- Where something could be created that reads around the door, now or by default.
UNION ALL
SELECT 'creation', g.name || ' has ' || a.privilege_type || ' on schema ' || n.nspname
FROM pg_namespace AS n, LATERAL aclexplode(n.nspacl) AS a JOIN named AS g ON g.oid = a.grantee
WHERE n.nspname IN ('trakr', 'door') AND a.grantee <> n.nspowner
UNION ALL
SELECT 'creation', r.rolname || ' may CREATE in schema ' || n.nspname
FROM restrained AS r, pg_namespace AS n
WHERE n.nspname NOT LIKE 'pg\_temp\_%' AND n.nspname NOT LIKE 'pg\_toast\_temp\_%' AND has_schema_privilege(r.oid, n.oid, 'CREATE')
UNION ALL
SELECT 'creation', r.rolname || ' may ' || p.what || ' in the database'
FROM restrained AS r, (VALUES ('CREATE'), ('TEMPORARY')) AS p (what)
WHERE has_database_privilege(r.oid, (SELECT oid FROM pg_database WHERE datname = current_database()), p.what)
UNION ALL
SELECT 'creation', g.name || ' may ' || a.privilege_type || ' every new ' || k.what || ' of ' || o.rolname
FROM ours AS o, (VALUES ('r', 'table'), ('f', 'function'), ('S', 'sequence')) AS k (kind, what),
    LATERAL (SELECT coalesce((SELECT d.defaclacl FROM pg_default_acl AS d WHERE d.defaclrole = o.oid AND d.defaclnamespace = 0 AND d.defaclobjtype::text = k.kind),
            acldefault(lower(k.kind)::"char", o.oid)) AS acl
        UNION ALL SELECT d.defaclacl FROM pg_default_acl AS d WHERE d.defaclrole = o.oid AND d.defaclnamespace <> 0 AND d.defaclobjtype::text = k.kind) AS d,
    LATERAL aclexplode(d.acl) AS a JOIN named AS g ON g.oid = a.grantee
WHERE o.rolname = 'trakr_owner' AND a.grantee <> o.oid

UNION ALL
SELECT 'row security', t.name || ' has row-level security ' || s.what
FROM tables AS t, LATERAL (VALUES ('enabled', t.relrowsecurity), ('forced', t.relforcerowsecurity)) AS s (what, so)
WHERE t.is_values AND s.so
UNION ALL
SELECT 'row security', t.name || ' ' || p.polname || ': ' || CASE WHEN p.polpermissive THEN '' ELSE 'restrictive ' END
    || CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE' ELSE 'ALL' END
    || ' to ' || (SELECT string_agg(n.name, ', ' ORDER BY n.name) FROM named AS n WHERE n.oid = ANY (p.polroles))
    || coalesce(' using ' || regexp_replace(pg_get_expr(p.polqual, p.polrelid), '\s+', ' ', 'g'), '')
    || coalesce(' check ' || regexp_replace(pg_get_expr(p.polwithcheck, p.polrelid), '\s+', ' ', 'g'), '')
FROM pg_policy AS p JOIN tables AS t ON t.oid = p.polrelid

-- Triggers as they are defined, with their state; rules; and switched-off checks
-- of foreign keys.
UNION ALL
SELECT 'triggers', regexp_replace(pg_get_triggerdef(g.oid), '^CREATE (CONSTRAINT )?TRIGGER ', '\1') || CASE g.tgenabled WHEN 'A' THEN ' always'
    WHEN 'O' THEN ' but not in replica mode' WHEN 'R' THEN ' in replica mode only' ELSE ' but disabled' END
FROM pg_trigger AS g JOIN tables AS t ON t.oid = g.tgrelid WHERE NOT g.tgisinternal
UNION ALL
SELECT 'triggers', 'a check of a foreign key of ' || t.name || ' is switched off'
FROM pg_trigger AS g JOIN tables AS t ON t.oid = g.tgrelid WHERE g.tgisinternal AND g.tgenabled <> 'O' GROUP BY t.name
UNION ALL
SELECT 'triggers', 'rule ' || r.rulename || ' on ' || t.name FROM pg_rewrite AS r JOIN tables AS t ON t.oid = r.ev_class WHERE t.relkind IN ('r', 'p')
UNION ALL
SELECT 'triggers', 'event trigger ' || e.evtname FROM pg_event_trigger AS e JOIN functions AS f ON f.oid = e.evtfoid

UNION ALL
SELECT 'functions', f.name || CASE WHEN f.prosecdef THEN ' is SECURITY DEFINER' ELSE ' is SECURITY INVOKER' END FROM functions AS f
UNION ALL
SELECT 'functions', f.name || ' sets ' || s FROM functions AS f, unnest(f.proconfig) AS s
UNION ALL
SELECT 'functions', f.name || ' has body ' || left(encode(sha256(convert_to(concat_ws(E'\n', l.lanname, f.provolatile, f.proisstrict,
    pg_get_function_result(f.oid), f.prosrc, pg_get_expr(f.proargdefaults, 0)), 'UTF8')), 'hex'), 16)
FROM functions AS f JOIN pg_language AS l ON l.oid = f.prolang

-- What each table itself ensures: constraints, unique indexes and columns that
-- are always filled, each by its name with the digest of its definition. The audit's
-- months have theirs under the partitions.
UNION ALL
SELECT 'constraints', t.name || ' has ' || k.what || ' ' || left(encode(sha256(convert_to(k.def, 'UTF8')), 'hex'), 16)
FROM tables AS t, LATERAL (
    SELECT c.conname::text AS what, pg_get_constraintdef(c.oid) AS def FROM pg_constraint AS c WHERE c.conrelid = t.oid AND c.contype NOT IN ('t', 'n')
    UNION ALL
    SELECT i.indexrelid::regclass::text, concat_ws(' ', pg_get_indexdef(i.indexrelid), i.indisvalid, i.indisready) FROM pg_index AS i
    WHERE i.indrelid = t.oid AND i.indisunique AND NOT EXISTS (SELECT FROM pg_constraint AS c WHERE c.conindid = i.indexrelid AND c.contype IN ('p', 'u', 'x'))
    UNION ALL
    SELECT 'columns that are always filled', string_agg(a.attname, ' ' ORDER BY a.attname) FROM pg_attribute AS a
    WHERE a.attrelid = t.oid AND a.attnum > 0 AND a.attnotnull AND NOT a.attisdropped HAVING count(*) > 0) AS k (what, def)
WHERE t.relkind IN ('r', 'p') AND NOT t.relispartition AND t.name LIKE 'trakr.%'

-- The audit's months: what each is, and whether an event_id is unique in it.
UNION ALL
SELECT 'partitions', m.name || ' is a month of the audit ' || coalesce(pg_get_expr(m.relpartbound, m.oid), '') FROM months AS m
UNION ALL
SELECT 'partitions', m.name || ' has each event_id once'
FROM months AS m
WHERE EXISTS (SELECT FROM pg_index AS i JOIN pg_attribute AS a ON a.attrelid = m.oid AND a.attname = 'event_id'
    WHERE i.indrelid = m.oid AND i.indisunique AND i.indisvalid AND i.indisready AND i.indimmediate AND i.indnkeyatts = 1 AND i.indkey[0] = a.attnum AND i.indpred IS NULL)
UNION ALL
SELECT 'months ahead', 'trakr.audit_events_' || w.month || CASE WHEN m.oid IS NULL THEN ' is missing' ELSE ' is there' END
FROM (SELECT to_char(date_trunc('month', now() AT TIME ZONE 'UTC') + make_interval(months => i), 'YYYYMM') AS month FROM generate_series(0, 2) AS i) AS w
LEFT JOIN months AS m ON m.name = 'trakr.audit_events_' || w.month

-- Ways past the door: views on the values, functions that act as a role that may
-- read them, and copies that leave by replication. Functions of extensions do not count.
UNION ALL
SELECT 'ways around', 'view ' || v.oid::regclass || ' reads trakr.tenant_fields'
FROM pg_depend AS d JOIN pg_rewrite AS r ON r.oid = d.objid AND d.classid = 'pg_rewrite'::regclass JOIN pg_class AS v ON v.oid = r.ev_class
WHERE d.refobjid = to_regclass('trakr.tenant_fields') AND d.refclassid = 'pg_class'::regclass AND v.relkind IN ('v', 'm') GROUP BY v.oid
UNION ALL
SELECT 'ways around', 'trakr_service may call ' || p.oid::regprocedure || ', which acts as ' || pg_get_userbyid(p.proowner)
FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace JOIN pg_roles AS w ON w.oid = p.proowner, ours AS o
WHERE o.rolname = 'trakr_service' AND p.prosecdef AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'trakr', 'door')
    AND has_schema_privilege(o.oid, n.oid, 'USAGE') AND has_function_privilege(o.oid, p.oid, 'EXECUTE')
    AND (w.rolsuper OR (to_regclass('trakr.tenant_fields') IS NOT NULL AND has_any_column_privilege(w.oid, to_regclass('trakr.tenant_fields'), 'SELECT')))
    AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.objid = p.oid AND d.classid = 'pg_proc'::regclass AND d.deptype = 'e')
UNION ALL
SELECT 'ways around', 'publication ' || t.pubname || ' carries trakr.tenant_fields'
FROM pg_publication_tables AS t WHERE t.schemaname = 'trakr' AND t.tablename = 'tenant_fields'

-- Settings that were given to roles or granted to be set.
UNION ALL
SELECT 'role settings', coalesce(r.name, 'everybody') || CASE WHEN s.setdatabase = 0 THEN '' ELSE ' in this database' END || ' starts with ' || c
FROM pg_db_role_setting AS s LEFT JOIN named AS r ON r.oid = NULLIF(s.setrole, 0), unnest(s.setconfig) AS c
WHERE s.setrole IN (SELECT oid FROM ours UNION ALL SELECT 0)
    AND s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
    AND (c = 'synchronous_commit=off' OR split_part(c, '=', 1) IN ('search_path', 'session_replication_role', 'row_security', 'role',
        'session_preload_libraries', 'local_preload_libraries'))
UNION ALL
SELECT 'role settings', g.name || ' may ' || a.privilege_type || ' ' || p.parname
FROM pg_parameter_acl AS p, LATERAL aclexplode(p.paracl) AS a JOIN grantees AS g ON g.oid = a.grantee

UNION ALL
SELECT 'session', 'acts as ' || current_user
UNION ALL
SELECT 'login', CASE WHEN session_user = 'trakr_service' THEN 'trakr_service'
    WHEN u.rolsuper THEN 'a superuser'
    ELSE coalesce((SELECT string_agg(o.rolname, ', ' ORDER BY o.rolname) FROM ours AS o
        WHERE o.rolname IN ('trakr_owner', 'trakr_door', 'trakr_sweep', 'trakr_backup') AND pg_has_role(u.oid, o.oid, 'MEMBER')), 'a login of its own') END
FROM pg_roles AS u WHERE u.rolname = session_user

UNION ALL
SELECT 'synchronous_commit', 'synchronous_commit is ' || current_setting('synchronous_commit')
UNION ALL
SELECT 'fsync', 'fsync is ' || current_setting('fsync')
UNION ALL
SELECT 'full_page_writes', 'full_page_writes is ' || current_setting('full_page_writes')
ORDER BY 1, 2
