"""Fuzzing: what reads outside input meets any bytes at all; docs/testing.md says how it is run."""
