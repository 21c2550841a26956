"""The command line: one small module a command, all of them over the public calls."""
