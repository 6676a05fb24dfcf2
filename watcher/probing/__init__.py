"""Asking mounts whether they answer, without ever waiting for one."""
