select workload, subject, target, database, outcome, statements, denied, held, masked_values from sessions where outcome <> 'denied' order by opened;
select decision, rules[1] as rule, text, outcome, rows, masked_values as masked, approver from statements order by time;
select rule, text, approver, granted, waited_us // 1000 as waited_ms from approvals;
select destination, reason from sessions where outcome = 'denied' order by opened;
select layer, destination, transport, reason, sum(count) as packets from refusals group by all order by all;
select count(*) as actions_without_rule_or_approval from unaccounted
