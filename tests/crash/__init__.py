"""Power cuts: what a real run did to its directory is recorded (trace.py, runs.py) and played back into a
model of a file system that loses what was not synced (model.py); the states that a cut may leave (states.py)
are then opened as the next run would (check.py). docs/durability.md has the promises and the assumptions.
"""
