-- Rows of the journal's batches: statements (with a digest) and results (without) that share their other fields with an earlier
-- event of the same writer, number "like": a whole one, in live.statement or live.result. views.sql puts the two together.
-- statement is the number within the flow.
create table live.brief (
    writer varchar, seq ubigint, at_ns bigint, flow varchar, "like" ubigint, statement ubigint,
    ordinal integer, digest varchar, parameters varchar[],
    tag varchar, "rows" bigint, bytes bigint, masked_values bigint, detections map(varchar, bigint), elapsed_us bigint
);
