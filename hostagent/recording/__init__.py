"""From journals to SQL: reading and verifying every writer's journal, DuckDB, sealed files, publishing, asking, auditing.

Lives here: everything that opens DuckDB. May not live here: anything on the data path; a slow or dead recorder costs
nobody a byte, because the journal is the evidence and all of this can be rebuilt from it. The views are the public
interface: ``README.md`` beside this file describes each of them, ``schema/`` holds their SQL.
"""
