-- Regenerates STABLE of hostagent/sql/builtins.py (the test subtracts what that module says it leaves out).
select p.proname from pg_proc p where p.pronamespace='pg_catalog'::regnamespace
group by p.proname
having bool_and(p.provolatile in ('i','s') )
and bool_or(not (p.proargtypes::oid[] && array['internal'::regtype,'cstring'::regtype]::oid[]) and p.prorettype not in ('internal'::regtype,'cstring'::regtype,'trigger'::regtype,'event_trigger'::regtype,'language_handler'::regtype,'fdw_handler'::regtype,'index_am_handler'::regtype,'table_am_handler'::regtype, 'tsm_handler'::regtype))
order by 1
