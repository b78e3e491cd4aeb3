"""``python -m hostagent`` is the ``hostagent`` command."""

from hostagent.cli import main

if __name__ == "__main__":
    main(prog_name="hostagent")
