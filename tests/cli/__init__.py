"""The command line as its users have it: processes of its own, pipes and terminals."""
