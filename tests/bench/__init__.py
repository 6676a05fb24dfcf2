"""Measures the watcher beside two simpler ways: `python -m tests.bench`, as root. No test depends on a time."""
