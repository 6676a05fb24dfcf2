"""Tests against the real kernel: mounts, child processes, sockets."""
