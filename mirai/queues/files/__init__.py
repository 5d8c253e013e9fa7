"""Queues of calls that lie in one file."""
