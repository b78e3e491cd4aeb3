"""What a function call means, by name: PostgreSQL's own functions sorted by effect. Anything unknown is EXECUTE.

Source: PostgreSQL 17 §9 and ``pg_proc``. A function outside ``pg_catalog`` is server-side code that the wire cannot see.
"""

from __future__ import annotations

import re

from hostagent.model.operation import Effect
from hostagent.sql.builtins import INFORMATION_SCHEMA, NEWER, STABLE, VOLATILE

HARMLESS: frozenset[str] = STABLE | VOLATILE | NEWER

_READ = frozenset({Effect.READ})
_UNSEEN = frozenset({Effect.EXECUTE})
_NOTHING: frozenset[Effect] = frozenset()

_BY_NAME: dict[str, frozenset[Effect]] = {
    "nextval": frozenset({Effect.UPDATE}),
    "setval": frozenset({Effect.UPDATE}),
    "set_config": frozenset({Effect.SESSION}),
    "pg_notify": frozenset({Effect.NOTIFY}),
    "pg_export_snapshot": frozenset({Effect.TRANSACTION}),
    "lo_creat": frozenset({Effect.CREATE}),
    "lo_create": frozenset({Effect.CREATE}),
    "lo_from_bytea": frozenset({Effect.CREATE}),
    "lo_unlink": frozenset({Effect.DROP}),
    "lo_open": frozenset({Effect.UPDATE}),  # the mode may be "write", which a read-only transaction refuses
    "lo_put": frozenset({Effect.UPDATE}),
    "lowrite": frozenset({Effect.UPDATE}),
    "lo_truncate": frozenset({Effect.UPDATE}),
    "lo_truncate64": frozenset({Effect.UPDATE}),
    "lo_import": frozenset({Effect.HOST, Effect.CREATE}),
    "lo_export": frozenset({Effect.HOST}),
    "pg_stat_file": frozenset({Effect.HOST}),
    "pg_current_logfile": frozenset({Effect.HOST}),
    "pg_hba_file_rules": frozenset({Effect.HOST}),
    "pg_ident_file_mappings": frozenset({Effect.HOST}),
    "pg_show_all_file_settings": frozenset({Effect.HOST}),
    "pg_cancel_backend": frozenset({Effect.ADMIN, Effect.CANCEL}),
    "pg_terminate_backend": frozenset({Effect.ADMIN, Effect.CANCEL}),
    "pg_reload_conf": frozenset({Effect.ADMIN}),
    "pg_rotate_logfile": frozenset({Effect.ADMIN, Effect.HOST}),
    "pg_rotate_logfile_old": frozenset({Effect.ADMIN, Effect.HOST}),
    "pg_promote": frozenset({Effect.ADMIN}),
    "pg_switch_wal": frozenset({Effect.ADMIN}),
    "pg_create_restore_point": frozenset({Effect.ADMIN}),
    "pg_log_backend_memory_contexts": frozenset({Effect.ADMIN}),
    "pg_log_standby_snapshot": frozenset({Effect.ADMIN}),
    "pg_import_system_collations": frozenset({Effect.ADMIN, Effect.CREATE}),
    "pg_restore_relation_stats": frozenset({Effect.ADMIN, Effect.UPDATE}),
    "pg_extension_config_dump": frozenset({Effect.ALTER}),
    "pg_nextoid": frozenset({Effect.ADMIN}),
    "pg_stat_force_next_flush": _READ,
    "gin_clean_pending_list": frozenset({Effect.ADMIN}),
    "pg_replication_origin_session_is_setup": frozenset({Effect.REPLICATION}),
    "pg_create_logical_replication_slot": frozenset({Effect.REPLICATION, Effect.CREATE}),
    "pg_create_physical_replication_slot": frozenset({Effect.REPLICATION, Effect.CREATE}),
    "pg_copy_logical_replication_slot": frozenset({Effect.REPLICATION, Effect.CREATE}),
    "pg_copy_physical_replication_slot": frozenset({Effect.REPLICATION, Effect.CREATE}),
    "pg_drop_replication_slot": frozenset({Effect.REPLICATION, Effect.DROP}),
    "pg_sync_replication_slots": frozenset({Effect.REPLICATION}),
    # Functions that run SQL text or read what a string names; the walker looks at the text where it is constant.
    "query_to_xml": _READ,
    "query_to_xmlschema": _READ,
    "query_to_xml_and_xmlschema": _READ,
    "ts_stat": _READ,
    "ts_rewrite": _READ,
}

_BY_PATTERN: tuple[tuple[re.Pattern[str], frozenset[Effect]], ...] = (
    (re.compile(r"pg_(try_)?advisory_"), frozenset({Effect.LOCK})),
    (re.compile(r"pg_(read_(binary_)?file|ls_)|pg_file_|pg_logdir_ls|pg_logfile_"), frozenset({Effect.HOST})),
    (re.compile(r"(table|schema|database)_to_xml|cursor_to_xml"), _READ),
    (re.compile(r"dblink"), frozenset({Effect.HOST, Effect.EXECUTE})),
    (re.compile(r"crosstab|connectby\Z|xpath_table\Z|xquery_"), frozenset({Effect.READ, Effect.EXECUTE})),
    (re.compile(r"pg_logical_|pg_replication_"), frozenset({Effect.REPLICATION})),
    (re.compile(r"pg_(wal_replay_|backup_|start_backup|stop_backup|stat_reset)"), frozenset({Effect.ADMIN})),
    (re.compile(r"brin_(de)?summarize_"), frozenset({Effect.ADMIN})),
    (re.compile(r"binary_upgrade_"), frozenset({Effect.ADMIN, Effect.ALTER})),
)

# Which arguments hold SQL text that the function runs.
SQL_ARGUMENTS: dict[str, tuple[int, ...]] = {
    "query_to_xml": (0,),
    "query_to_xmlschema": (0,),
    "query_to_xml_and_xmlschema": (0,),
    "ts_stat": (0,),
    "crosstab": (0, 1),
    "crosstab2": (0,),
    "crosstab3": (0,),
    "crosstab4": (0,),
    "crosstab_hash": (0, 1),
}
RELATION_ARGUMENT: frozenset[str] = frozenset(
    {"table_to_xml", "table_to_xmlschema", "table_to_xml_and_xmlschema", "nextval", "setval", "currval"}
)
# Reads or runs what this text cannot tell: other servers, cursors, everything in a schema, names built from strings.
UNTOLD = re.compile(r"dblink|cursor_to_xml|(schema|database)_to_xml|connectby\Z|xpath_table\Z|crosstab")


def effects_of(schema: str | None, name: str) -> frozenset[Effect]:
    """Return the effects of calling ``schema.name`` beyond those of its arguments; EXECUTE when it is not known.

    The dangerous names of contrib modules (dblink, tablefunc, adminpack) count in any schema, because that is where an
    operator may have put them; a harmless name counts only in ``pg_catalog`` or unqualified.
    """
    own = schema in (None, "pg_catalog")
    if own and name in HARMLESS:
        return _NOTHING
    if schema == "information_schema" and name in INFORMATION_SCHEMA:
        return _NOTHING
    known = _BY_NAME.get(name)
    if known is None:
        known = next((effects for pattern, effects in _BY_PATTERN if pattern.match(name)), _UNSEEN)
    return known if own else known | _UNSEEN
