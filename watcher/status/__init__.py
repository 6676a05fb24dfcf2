"""What a running service answers when it is asked: JSON over HTTP on a Unix socket."""
