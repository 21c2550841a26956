"""Tests of the part file, its checkpoint and its target."""
