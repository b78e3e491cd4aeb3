"""A hostile program, run as a governed workload: tries one way out after the other and prints what came of each as JSON.

``hostile_program SINK_V4 SINK_V6 [:LABEL] [ATTEMPT …]``. An outcome is ``ok …`` or the error's name; nothing here judges, the tests do.
"""

from __future__ import annotations

import json
import sys

import datagrams  # noqa: F401 - each module puts its attempts into the table
import doors  # noqa: F401
import families  # noqa: F401
import later  # noqa: F401
import pressure  # noqa: F401
import privileges  # noqa: F401
import surroundings  # noqa: F401
import tcp  # noqa: F401
import tunnels  # noqa: F401
from attempts import ATTEMPTS, name_of


def main() -> None:
    outcomes = {}
    for name in sys.argv[3:]:
        if name.startswith(":"):  # a label for the evidence
            continue
        try:
            outcomes[name] = ATTEMPTS[name]()
        except OSError as error:
            outcomes[name] = name_of(error)
        except Exception as error:
            outcomes[name] = f"! {error!r}"
    print(json.dumps(outcomes, indent=1))


if __name__ == "__main__":
    main()
