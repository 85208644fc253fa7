"""``flowmatch synth``: look at synthetic training data."""
