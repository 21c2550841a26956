"""Mirrors measured: the statistics and what is said of them, real servers of known behaviour, the command."""
