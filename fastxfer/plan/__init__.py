"""Decisions without effects: no clock, socket, file, thread or random number in here; time and jitter are
arguments.
"""
