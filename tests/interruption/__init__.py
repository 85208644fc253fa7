"""Commands that are killed: ``python -m tests.interruption flow --times 50``."""
