"""The persistent queue."""
