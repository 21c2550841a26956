"""Many small objects: what comes, what does not, and what a kill leaves."""
