-- The public interface: every view and column here is described in ../README.md and stays.
-- Arrows stand in parentheses: DuckDB 1.5 binds them more loosely than "=". Times are UTC. Sources: recorded.* = sealed files and live rows together.

create or replace macro utc(nanoseconds) as make_timestamp(nanoseconds // 1000);

-- Private: statements and results, whether the journal tells one whole or only what is its own.
create or replace view recorded.statement as
select writer, seq, at_ns, flow, workload, statement, ordinal, verb, effects, resources, completeness, "text", fingerprint, digest,
       parameters, decision, rules, reason, policy, ticket, masks
from recorded.whole_statement
union all
select b.writer, b.seq, b.at_ns, b.flow, w.workload, b.flow || '.' || b.statement, coalesce(b.ordinal, 0), w.verb, w.effects, w.resources, w.completeness,
       w."text", w.fingerprint, b.digest, coalesce(b.parameters, []), w.decision, w.rules, w.reason, w.policy, '', w.masks
from recorded.brief b left join recorded.whole_statement w on w.writer = b.writer and w.seq = b."like"
where b.digest is not null;

create or replace view recorded.result as
select writer, seq, at_ns, flow, workload, statement, outcome, tag, "rows", bytes, sqlstate, message, "columns", masked_values,
       detections, elapsed_us
from recorded.whole_result
union all
select b.writer, b.seq, b.at_ns, b.flow, w.workload, b.flow || '.' || b.statement, w.outcome, b.tag, coalesce(b."rows", 0), coalesce(b.bytes, 0),
       w.sqlstate, w.message, w."columns", coalesce(b.masked_values, 0), coalesce(b.detections, map()), coalesce(b.elapsed_us, 0)
from recorded.brief b left join recorded.whole_result w on w.writer = b.writer and w.seq = b."like"
where b.digest is null;

-- Private: each connection with the process that the kernel saw dialling, where it saw one. The latest dial of the same leaf with
-- the same two addresses; anything less certain stays cgroup-only.
create or replace view recorded.attributed as
select c.* replace (
           case when c.at_ns - k.at_ns <= 5000000000 and k.attribution = 'process' then k.pid else c.pid end as pid,
           case when c.at_ns - k.at_ns <= 5000000000 and k.attribution = 'process' then k.lineage[1].exe else c.exe end as exe,
           case when c.at_ns - k.at_ns <= 5000000000 and k.attribution = 'process' then 'process'
                else c.attribution end as attribution),
       case when c.at_ns - k.at_ns <= 5000000000 and k.attribution = 'process' then k.lineage end as lineage
from recorded.connection c
asof left join (
    select leaf, source, destination, at_ns, at_ns - 50000000 as from_ns, pid, attribution, lineage from recorded.kernel_flow
) k on k.leaf = c.leaf and k.source = c.peer and k.destination = c.destination and c.at_ns >= k.from_ns;

create or replace view sessions as
with asked as (
    select flow, count(*) as statements, count(*) filter (decision = 'deny') as denied,
           count(*) filter (decision = 'hold') as held
    from recorded.statement group by flow
), answered as (
    select flow, sum("rows")::bigint as "rows", sum(bytes)::bigint as bytes, sum(masked_values)::bigint as masked_values,
           count(*) filter (outcome = 'error') as errors
    from recorded.result group by flow
), logged_in as (
    select flow, arg_max(l, seq) as l from recorded.login l group by flow
), ended as (
    select flow, arg_max(e, seq) as e from recorded.close e group by flow
), restarts as (
    select writer, max(seq) as seq from recorded.event
    where kind = 'service' and (fields ->> 'change') = 'started' group by writer
)
select
    c.flow as session, c.workload, c.issuer, c.subject, c."groups", c.purpose, c.token_id,
    c.pid, c.exe, c.attribution, c.lineage, c.leaf, c.peer, c.destination, c.transport, c.protocol, c.target,
    coalesce(c.direction, 'outbound') as direction, l."database", l."user" as requested_user, l.upstream_user, l.application, l.tls_client, l.tls_server,
    utc(c.at_ns) as opened, utc(e.at_ns) as closed,
    case when c.outcome = 'denied' or l.outcome = 'denied' then 'denied'
         when l.outcome = 'failed' then 'failed'
         when e.at_ns is not null then 'closed'
         when r.seq > c.seq then 'lost'
         else 'open' end as outcome,
    coalesce(case when c.outcome = 'denied' then c.reason when l.outcome in ('denied', 'failed') then l.reason end,
             e.reason, '') as reason,
    coalesce(list_distinct(list_concat(c.rules, l.rules)), []) as rules,
    coalesce(l.policy, c.policy) as policy,
    coalesce(a.statements, 0) as statements, coalesce(a.denied, 0) as denied, coalesce(a.held, 0) as held,
    coalesce(b.errors, 0) as errors, coalesce(b."rows", 0) as "rows", coalesce(b.masked_values, 0) as masked_values,
    coalesce(e.bytes_up, 0) as bytes_up, coalesce(e.bytes_down, 0) as bytes_down,
    e.elapsed_us, c.writer, c.seq
from recorded.attributed c
left join logged_in using (flow)
left join ended using (flow)
left join asked a using (flow)
left join answered b using (flow)
left join restarts r on r.writer = c.writer;

create or replace view approvals as
with held as (
    select flow, workload, at_ns, writer, seq, (fields ->> 'ticket') as ticket, (fields ->> 'statement') as statement,
           (fields ->> 'rule') as rule, (fields ->> 'approvers') as approvers, (fields ->> 'digest') as digest,
           try_cast((fields ->> 'expires_at') as double) as expires_at, (fields ->> 'reason') as reason
    from recorded.event where kind = 'hold'
), answers as (
    select (fields ->> 'ticket') as ticket, arg_min(try_cast((fields ->> 'granted') as boolean), seq) as granted,
           arg_min((fields ->> 'by'), seq) as "by", arg_min((fields ->> 'reason'), seq) as reason, min(at_ns) as at_ns
    from recorded.event where kind = 'answer' group by all
)
select h.ticket, h.flow as session, h.statement, h.workload, c.issuer, c.subject, c.target,
       s."text", s.effects, h.rule, h.approvers, h.digest, h.reason,
       utc(h.at_ns) as held, make_timestamp((h.expires_at * 1000000)::bigint) as expires,
       utc(a.at_ns) as answered, a.granted, a."by" as approver, a.reason as answer_reason,
       (a.at_ns - h.at_ns) // 1000 as waited_us, h.writer, h.seq
from held h
left join answers a using (ticket)
left join recorded.statement s using (flow, statement)
left join recorded.connection c using (flow);

create or replace view statements as
with answers as (
    select (fields ->> 'ticket') as ticket, arg_min(try_cast((fields ->> 'granted') as boolean), seq) as granted,
           arg_min((fields ->> 'by'), seq) as "by"
    from recorded.event where kind = 'answer' group by all
)
select
    s.flow as session, s.statement, s.ordinal, utc(s.at_ns) as time, s.workload,
    c.issuer, c.subject, c."groups", c.purpose, c.pid, c.exe, c.target, c.protocol,
    s.verb, s.effects, s.resources, s.completeness, s."text", s.parameters, s.fingerprint, s.digest,
    s.decision, s.rules, s.reason, s.policy, s.masks,
    nullif(s.ticket, '') as ticket, a.granted, a."by" as approver,
    r.outcome, r.tag, r."rows", r.bytes, r.sqlstate, r.message, r.masked_values, r.detections, r.elapsed_us,
    s.writer, s.seq
from recorded.statement s
left join recorded.result r using (flow, statement)
left join recorded.attributed c using (flow)
left join answers a on a.ticket = nullif(s.ticket, '');

create or replace view responses as
select r.flow as session, r.statement, utc(r.at_ns) as time, r.workload, r.outcome, r.tag, r."rows", r.bytes,
       r.sqlstate, r.message, coalesce(len(r."columns"), 0) as column_count,
       len(list_filter(r."columns", lambda c: c.masked)) as masked_columns, r.masked_values, r.detections,
       r.elapsed_us, r.writer, r.seq
from recorded.result r;

create or replace view response_columns as
select session, statement, time, workload, position, c."name", c."table", c."column", c."type", c.masked
from (
    select flow as session, statement, utc(at_ns) as time, workload,
           unnest("columns") as c, unnest(range(1, len("columns") + 1)) as position
    from recorded.result
);

create or replace view transfers as
select e.flow as session, (e.fields ->> 'statement') as statement, utc(e.at_ns) as time, e.workload, c.issuer, c.subject, c."groups", c.purpose,
       c.pid, c.exe, c.target, c.protocol, (e.fields ->> 'direction') as direction, (e.fields ->> 'name') as "name",
       (e.fields ->> 'media_type') as media_type, (e.fields ->> 'detected_type') as detected_type, (e.fields ->> 'coding') as coding,
       (e.fields ->> 'part') as part, try_cast((e.fields ->> 'size') as bigint) as size,
       try_cast((e.fields ->> 'declared_size') as bigint) as declared_size, (e.fields ->> 'sha256') as sha256,
       coalesce(try_cast((e.fields ->> 'masked') as boolean), false) as masked, (e.fields ->> 'outcome') as outcome,
       (e.fields ->> 'reason') as reason, try_cast((e.fields -> 'rules') as varchar[]) as rules, (e.fields ->> 'policy') as policy, e.writer, e.seq
from recorded.event e left join recorded.attributed c using (flow) where e.kind = 'transfer';

create or replace view touched as
select s.flow as session, s.statement, utc(s.at_ns) as time, s.workload, s.decision,
       (r.value ->> 'kind') as kind, (r.value ->> 'name') as "name", (r.value ->> 'access') as access
from recorded.statement s, json_each(case when json_type(s.resources) = 'ARRAY' then s.resources else '[]' end) r;

create or replace view denials as
select 'statement' as level, flow as session, utc(at_ns) as time, workload, statement, "text", rules, reason, policy, writer, seq
from recorded.statement where decision = 'deny'
union all by name
select 'statement' as level, h.session, h.answered as time, h.workload, h.statement, h."text", [h.rule] as rules,
       coalesce(h.answer_reason, '') as reason, s.policy, h.writer, h.seq
from approvals h left join recorded.statement s on s.flow = h.session and s.statement = h.statement where not h.granted
union all by name
select 'connection' as level, flow as session, utc(at_ns) as time, workload, rules, reason, policy, writer, seq
from recorded.connection where outcome = 'denied'
union all by name
select 'login' as level, flow as session, utc(at_ns) as time, workload, rules, reason, policy, writer, seq
from recorded.login where outcome = 'denied';

create or replace view refusals as
select utc(at_ns) as time, workload, nullif(flow, '') as session, (fields ->> 'layer') as layer, (fields ->> 'leaf') as leaf,
       (fields ->> 'source') as source, (fields ->> 'destination') as destination, (fields ->> 'transport') as transport,
       (fields ->> 'reason') as reason, coalesce(try_cast((fields ->> 'count') as bigint), 1) as "count", writer, seq
from recorded.event where kind = 'refusal'
union all by name
select utc(at_ns) as time, workload, flow as session, 'proxy' as layer, leaf, peer as source, destination, transport,
       reason, 1::bigint as "count", writer, seq
from recorded.connection where outcome = 'denied'
union all by name
select utc(at_ns) as time, workload, nullif(flow, '') as session, 'dns' as layer, (fields ->> 'leaf') as leaf, (fields ->> 'name') as destination, 'dns' as transport,
       (fields ->> 'reason') as reason, 1::bigint as "count", writer, seq
from recorded.event where kind = 'dns' and (fields ->> 'outcome') = 'refused';

create or replace view dns as
select utc(at_ns) as time, workload, (fields ->> 'name') as "name", (fields ->> 'type') as "type",
       (fields ->> 'outcome') as outcome, try_cast((fields -> 'answers') as varchar[]) as answers, (fields ->> 'reason') as reason,
       (fields ->> 'leaf') as leaf, writer, seq
from recorded.event where kind = 'dns';

create or replace view admissions as
select utc(at_ns) as time, workload, (fields ->> 'leaf') as leaf, (fields ->> 'outcome') as outcome, (fields ->> 'reason') as reason,
       (fields ->> 'launcher') as launcher, (fields ->> 'placement') as placement, (fields ->> 'issuer') as issuer,
       (fields ->> 'subject') as subject, try_cast((fields -> 'groups') as varchar[]) as "groups", (fields ->> 'purpose') as purpose,
       (fields -> 'claims') as claims, (fields ->> 'token_id') as token_id,
       make_timestamp((try_cast((fields ->> 'expires_at') as double) * 1000000)::bigint) as expires, writer, seq
from recorded.event where kind = 'admission';

create or replace view identities as
select utc(at_ns) as time, workload, (fields ->> 'change') as change, (fields ->> 'reason') as reason,
       (fields ->> 'issuer') as issuer, (fields ->> 'subject') as subject, (fields ->> 'token_id') as token_id,
       make_timestamp((try_cast((fields ->> 'expires_at') as double) * 1000000)::bigint) as expires, writer, seq
from recorded.event where kind = 'identity'
union all by name
select time, workload, outcome as change, reason, issuer, subject, token_id, expires, writer, seq from admissions;

create or replace view processes as
with ends as (
    select (fields ->> 'leaf') as leaf, (fields ->> 'pid') as pid, max(at_ns) as at_ns,
           arg_max(try_cast((fields ->> 'status') as integer), at_ns) as status
    from recorded.event where kind = 'exit' group by all
)
select l.workload, (l.fields ->> 'leaf') as leaf, try_cast((l.fields ->> 'pid') as bigint) as pid,
       try_cast((l.fields ->> 'start_ticks') as ubigint) as start_ticks, (l.fields ->> 'exe') as exe,
       coalesce(try_cast((l.fields -> 'argv') as varchar[]), [(l.fields ->> 'argv')]) as argv, try_cast((l.fields ->> 'uid') as bigint) as uid,
       coalesce(try_cast((l.fields ->> 'degraded') as boolean), false) as degraded,
       utc(l.at_ns) as started, utc(e.at_ns) as ended, e.status, l.writer, l.seq
from recorded.event l
left join ends e on e.leaf = (l.fields ->> 'leaf') and e.pid = (l.fields ->> 'pid')
where l.kind = 'launch';

create or replace view policies as
select utc(at_ns) as time, (fields ->> 'outcome') as outcome, (fields ->> 'policy') as policy,
       try_cast((fields -> 'documents') as varchar[]) as documents, (fields ->> 'reason') as reason, writer, seq
from recorded.event where kind = 'policy';

create or replace view service as
select utc(at_ns) as time, (fields ->> 'component') as component, (fields ->> 'change') as change,
       (fields ->> 'version') as version, (fields ->> 'detail') as detail, writer, seq
from recorded.event where kind = 'service';

create or replace view audits as
select utc(at_ns) as time, workload, (fields ->> 'leaf') as leaf, (fields ->> 'finding') as finding,
       try_cast((fields ->> 'pid') as bigint) as pid, try_cast((fields ->> 'start_ns') as bigint) as start_ns, (fields ->> 'exe') as exe,
       (fields ->> 'detail') as detail, (fields ->> 'action') as action,
       try_cast((fields ->> 'elapsed_us') as bigint) as elapsed_us, writer, seq
from recorded.event where kind = 'audit';

create or replace view verifications as
select utc(at_ns) as time, (fields ->> 'cause') as cause, (fields ->> 'outcome') as outcome,
       try_cast((fields -> 'failed') as varchar[]) as failed,
       try_cast((fields -> 'attempts') as struct("name" varchar, outcome varchar)[]) as attempts,
       try_cast((fields ->> 'elapsed_us') as bigint) as elapsed_us, writer, seq
from recorded.event where kind = 'verify';

create or replace view tamper as
select writer, seq, segment, position, kind, detail from live.tamper;

create or replace view gaps as
select utc(at_ns) as time, writer, seq, 'stated' as source, (fields ->> 'reason') as reason,
       try_cast((fields ->> 'count') as bigint) as "count"
from recorded.event where kind = 'gap'
union all by name
select writer, seq, 'found' as source, kind || ': ' || detail as reason, 0::bigint as "count" from live.tamper;

create or replace view events as
select writer, seq, utc(at_ns) as time, flow as session, workload, kind, fields from recorded.event
union all by name
select writer, seq, utc(at_ns) as time, flow as session, workload, 'connection' as kind,
       to_json(struct_pack(outcome, target, destination, reason, rules)) as fields from recorded.connection
union all by name
select writer, seq, utc(at_ns) as time, flow as session, workload, 'login' as kind,
       to_json(struct_pack(outcome, "database", upstream_user, reason, rules)) as fields from recorded.login
union all by name
select writer, seq, utc(at_ns) as time, flow as session, workload, 'statement' as kind,
       to_json(struct_pack(statement, verb, effects, decision, "text", parameters, rules, masks, reason, ticket)) as fields
from recorded.statement
union all by name
select writer, seq, utc(at_ns) as time, flow as session, workload, 'result' as kind,
       to_json(struct_pack(statement, outcome, tag, "rows", sqlstate, message, masked_values, "columns", elapsed_us)) as fields
from recorded.result
union all by name
select writer, seq, utc(at_ns) as time, flow as session, workload, 'close' as kind,
       to_json(struct_pack(reason, bytes_up, bytes_down, statements, elapsed_us)) as fields from recorded.close
union all by name
select writer, seq, utc(at_ns) as time, flow as session, workload, 'kernel_flow' as kind,
       to_json(struct_pack(leaf, source, destination, pid, attribution, established, "count")) as fields from recorded.kernel_flow;

create or replace view timeline as
select session, time, kind, workload,
       case kind
         when 'connection' then concat((fields ->> 'outcome'), ' ', (fields ->> 'target'), ' ', (fields ->> 'destination'))
         when 'login' then concat((fields ->> 'outcome'), ' ', (fields ->> 'database'), ' as ', (fields ->> 'upstream_user'))
         when 'statement' then concat((fields ->> 'decision'), ' ', (fields ->> 'text'))
         when 'result' then concat((fields ->> 'outcome'), ' ', (fields ->> 'tag'), ' ', (fields ->> 'sqlstate'))
         when 'transfer' then concat((fields ->> 'outcome'), ' ', (fields ->> 'direction'), ' ', (fields ->> 'name'), ' ', (fields ->> 'size'), ' bytes')
         when 'hold' then concat('ticket ', (fields ->> 'ticket'), ' waits for ', (fields ->> 'approvers'))
         when 'answer' then concat(case when try_cast((fields ->> 'granted') as boolean) then 'approved by ' else 'not approved ' end,
                                   (fields ->> 'by'), ' ', (fields ->> 'reason'))
         else coalesce((fields ->> 'reason'), '') end as what,
       fields, writer, seq
from events where session <> '';

create or replace view unaccounted as
select 'statement without rule or approval' as problem, s.session, s.statement, s.time, s.workload, s.writer, s.seq
from statements s
where (s.decision is null or s.decision <> 'deny') and coalesce(len(s.rules), 0) = 0 and s.granted is not true
union all
select 'held statement ran without approval', s.session, s.statement, s.time, s.workload, s.writer, s.seq
from statements s where s.decision = 'hold' and s.outcome in ('ok', 'error') and s.granted is not true
union all
select 'result without statement', r.flow, r.statement, utc(r.at_ns), r.workload, r.writer, r.seq
from recorded.result r anti join recorded.statement s on s.flow = r.flow and s.statement = r.statement
union all
select 'session without identity', c.flow, null, utc(c.at_ns), c.workload, c.writer, c.seq
from recorded.connection c where c.outcome = 'accepted' and coalesce(c.subject, '') = '';

create or replace view kernel_flows as
select utc(at_ns) as time, workload, leaf, transport, source, destination, established, coalesce(own, false) as own,
       coalesce("count", 1) as "count", pid, start_ns, uid, comm, attribution, coalesce(lineage, []) as lineage, cookie, netns, writer, seq
from recorded.kernel_flow;

create or replace view unmatched_flows as
select utc(at_ns) as time, workload, leaf, source, destination, coalesce("count", 1) as "count", missing,
       pid, lineage[1].exe as exe, attribution, coalesce(lineage, []) as lineage, writer, seq
from ({ledger});

create or replace view alarms as
select 'unmatched flow' as alarm, time, workload,
       concat(leaf, ' dialled ', destination, ' from ', coalesce(nullif(source, ''), 'several ports'), ', the proxy has no record of it') as what,
       writer, seq
from unmatched_flows
union all by name
select 'auditor' as alarm, time, workload, concat(leaf, ': ', finding, ': ', detail) as what, writer, seq
from audits where action = 'killed'
union all by name
select 'journal budget' as alarm, time, workload, detail as what, writer, seq
from audits where finding = 'journal-budget' and action = 'refused'
union all by name
select 'verify failed' as alarm, utc(at_ns) as time, workload,
       concat_ws(' ', (fields ->> 'cause'), 'verify:', (fields ->> 'failed')) as what, writer, seq
from recorded.event where kind = 'verify' and (fields ->> 'outcome') = 'failed'
union all by name
select 'unaccounted' as alarm, time, workload, problem as what, writer, seq from unaccounted
union all by name
select 'tamper' as alarm, concat(kind, ': ', detail) as what, writer, seq from live.tamper;
