"""PostgreSQL protocol 3.0 and 3.2 (PostgreSQL 18 §54): start-up and authentication, then the typed messages.

Lives here: codecs and the pure side of authentication. May not live here: session state (``hostagent.inspectors.postgres``).
"""
