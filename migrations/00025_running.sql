-- What each running service acts by stands beside the field keys it holds: its policy's
-- hash, and the hosts that its settings name. So a report judges the services that run,
-- not the environment of whoever makes it.
--
-- For the operator: adds four columns with constant defaults to trakr.key_holders, which
-- has one row for each running service; takes a short exclusive lock there. A service of
-- the version before fills none of them and goes on; what it talks to is not known then.

-- +goose Up
-- setting, destination and host go together by their position. A host is a name or an
-- address, never a URL: that may hold a secret. '' is a unix socket of the machine.
ALTER TABLE trakr.key_holders
    ADD COLUMN policy_hash  text   NOT NULL DEFAULT '' CONSTRAINT key_holders_policy_form CHECK (policy_hash ~ '^([0-9a-f]{64})?$'),
    ADD COLUMN settings     text[] NOT NULL DEFAULT '{}',
    ADD COLUMN destinations text[] NOT NULL DEFAULT '{}',
    ADD COLUMN hosts        text[] NOT NULL DEFAULT '{}',
    ADD CONSTRAINT key_holders_parties_whole CHECK (cardinality(settings) = cardinality(destinations) AND cardinality(settings) = cardinality(hosts));
