"""Mutated files for every reader of files that strangers may have made.

``python -m tests.fuzz`` lists the readers; ``python -m tests.fuzz ply --inputs 100000`` tries one.
"""
