"""``flowmatch weights``: the weights that ship, and published ones."""
