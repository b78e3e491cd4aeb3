-- The live tables: what was read from the journal and not yet sealed. Private; the public interface is views.sql.
-- Each kind of event that comes in numbers has a table whose columns, after the first five, are the fields of that kind
-- (hostagent/model/event.py); the reader takes the names and types from here. Everything else is in live.event as JSON.
-- (writer, seq) is unique. at_ns: unix nanoseconds.

create schema live;

create table live.connection (
    writer varchar, seq ubigint, at_ns bigint, flow varchar, workload varchar,
    leaf varchar, transport varchar, peer varchar, destination varchar, target varchar, protocol varchar,
    outcome varchar, reason varchar, rules varchar[], policy varchar,
    issuer varchar, subject varchar, "groups" varchar[], purpose varchar, token_id varchar,
    pid bigint, exe varchar, attribution varchar, direction varchar
);

create table live.login (
    writer varchar, seq ubigint, at_ns bigint, flow varchar, workload varchar,
    outcome varchar, reason varchar, rules varchar[], policy varchar,
    "database" varchar, "user" varchar, upstream_user varchar, application varchar,
    tls_client varchar, tls_server varchar
);

create table live.statement (
    writer varchar, seq ubigint, at_ns bigint, flow varchar, workload varchar,
    statement varchar, ordinal integer, verb varchar, effects varchar[], resources json, completeness varchar,
    "text" varchar, fingerprint varchar, digest varchar, parameters varchar[],
    decision varchar, rules varchar[], reason varchar, policy varchar, ticket varchar, masks varchar[]
);

create table live.result (
    writer varchar, seq ubigint, at_ns bigint, flow varchar, workload varchar,
    statement varchar, outcome varchar, tag varchar, "rows" bigint, bytes bigint, sqlstate varchar, message varchar,
    "columns" struct("name" varchar, "table" varchar, "column" varchar, "type" varchar, masked boolean)[],
    masked_values bigint, detections map(varchar, bigint), elapsed_us bigint
);

create table live.close (
    writer varchar, seq ubigint, at_ns bigint, flow varchar, workload varchar,
    reason varchar, bytes_up bigint, bytes_down bigint, statements bigint, elapsed_us bigint
);

-- "count" above 1: so many dials beyond the rate that is recorded one by one, without source, cookie and process.
create table live.kernel_flow (
    writer varchar, seq ubigint, at_ns bigint, flow varchar, workload varchar,
    leaf varchar, cookie ubigint, transport varchar, source varchar, destination varchar, netns ubigint,
    established boolean, own boolean, "count" bigint, pid bigint, start_ns bigint, uid bigint, comm varchar, attribution varchar,
    lineage struct(pid bigint, start_ns bigint, exe varchar, argv varchar[], uid bigint, comm varchar)[]
);

create table live.event (
    writer varchar, seq ubigint, at_ns bigint, flow varchar, workload varchar,
    kind varchar, fields json
);

-- Breaks of a journal's chain, as they were found. Never sealed, never deleted.
create table live.tamper (
    writer varchar, seq ubigint, segment bigint, position bigint, kind varchar, detail varchar
);

-- How far each journal was read: changed in the same transaction as the rows, so that nothing is read twice or lost.
-- branch counts histories: it goes up when a journal's numbers went back, so that (writer, seq) stays unique.
create table live.reading (
    writer varchar primary key, branch integer, segment bigint, position bigint, seq ubigint, head varchar,
    key varchar, host varchar
);

-- One row while there were kernel flows: when all journals were last read to their ends. Flows are judged up to here.
create table live.checked (at_ns bigint);

-- The sealed files, one row per table of a seal.
create table live.sealed (
    seal bigint, source varchar, path varchar, sha256 varchar, "rows" bigint, bytes bigint,
    first_at bigint, last_at bigint
);

-- One row: the version of this schema, and which life of this database it is (a rebuild starts a new one).
create table live.about (version integer, generation integer);
