"""``flowmatch eval``: measure a method against known truth."""
