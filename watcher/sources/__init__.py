"""What the kernel tells: each source is an async iterator, with a slow re-read behind its events."""
