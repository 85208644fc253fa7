"""``flowmatch train``: train a network by a recipe."""
