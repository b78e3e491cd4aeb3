"""``hostagent verify``: attacks from throw-away leaves, and the rules in force compared with those that were meant."""
