"""Servers that misbehave on real sockets, and what a user gets: the object's exact bytes, or one typed error
with nothing under the final name and the progress kept. docs/misbehaviour.md is the table of them.
"""
