"""Readers: raw input → `Document`s. The contract is in `part.py`; a source is read in parts, each by one
process, in an order of its own.

A record that is damaged, empty or undecodable is counted in `Drops` by reason, with its place, and skipped.
When there is nothing to read (a missing or empty folder) `parts` raises one sentence that names the field,
its value, the rule and the remedy.
"""
