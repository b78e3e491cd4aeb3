-- The completeness ledger: what the kernel saw, beside what the proxy recorded. A template: the three braces name the rows to
-- look at, so that one text serves the public view (everything) and recorderd's check every few seconds (the newest).
--
-- First each connection takes the latest dial of the same leaf with the same two addresses, at most 15 s older: a proxy that
-- stood still takes its connections late. What is left on
-- both sides is compared by count, per leaf, destination and ten seconds: dials and refusals beyond the rate that is recorded
-- one by one come as counts (in the end without destinations: then per leaf and ten seconds), and conntrack may give a connection
-- another source port. Refusals within a session are no dials, and stand for none. A dial that nobody answered carries nothing and is no alarm; one to the leaf's own loopback goes nowhere.
-- Nothing is judged before it is 5 s old at the time when all journals were last read to their ends, and the proxy has written
-- something since or it is 9 s old (``recording.ledger``).

with watermark as (
    select coalesce(max(at_ns), 0) - 5000000000 as due_ns from live.checked
), dials as (
    select * from {kernel_flow} where at_ns <= (select due_ns from watermark)
), accepted as (
    select leaf, peer, destination, at_ns from {connection} where coalesce(direction, 'outbound') = 'outbound'
    union all by name
    select (fields ->> 'leaf') as leaf, (fields ->> 'peer') as peer, (fields ->> 'destination') as destination, at_ns
    from {event} where kind = 'dns' and (fields ->> 'type') = 'TCP'
), met as (
    select a.leaf, a.destination, a.at_ns, d.writer, d.seq, coalesce(a.at_ns - d.at_ns <= 15000000000, false) as found
    from accepted a
    asof left join (select *, at_ns - 50000000 as from_ns from dials) d
      on a.leaf = d.leaf and a.peer = d.source and a.destination = d.destination and a.at_ns >= d.from_ns
), remaining as (
    select d.*, d.at_ns // 10000000000 as span
    from dials d anti join (select writer, seq from met where found) m on d.writer = m.writer and d.seq = m.seq
    where coalesce(d.established, true) and not coalesce(d.own, false)
), spare as (
    select leaf, destination, at_ns, 1 as "count" from met where not found
    union all by name
    select (fields ->> 'leaf') as leaf, (fields ->> 'destination') as destination, at_ns,
           coalesce(try_cast((fields ->> 'count') as bigint), 1) as "count"
    from {event} where kind = 'refusal' and (fields ->> 'layer') = 'proxy' and coalesce(flow, '') = ''
), mixed as (
    select distinct leaf, span from remaining where destination = 'various'
    union
    select r.leaf, r.span from remaining r join spare s
      on s.leaf = r.leaf and s.destination = 'various'
     and s.at_ns between r.span * 10000000000 - 1000000000 and (r.span + 1) * 10000000000 + 5000000000
), placed as (
    select r.*, case when m.leaf is null then r.destination else '*' end as place
    from remaining r left join mixed m on r.leaf = m.leaf and r.span = m.span
), groups as (
    select leaf, place, span, sum(coalesce("count", 1))::bigint as dialled from placed group by all
), counted as (
    select g.leaf, g.place, g.span, any_value(g.dialled) as dialled, coalesce(sum(s."count"), 0)::bigint as recorded
    from groups g left join spare s
      on s.leaf = g.leaf and (g.place = '*' or s.destination = g.place)
     and s.at_ns between g.span * 10000000000 - 1000000000 and (g.span + 1) * 10000000000 + 5000000000
    group by g.leaf, g.place, g.span
)
select p.* exclude (place), c.dialled - c.recorded as missing
from placed p join counted c on p.leaf = c.leaf and p.place = c.place and p.span = c.span
where c.dialled > c.recorded
