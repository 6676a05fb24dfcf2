"""mountwatch: notices within seconds when a remote mount goes stale."""

__version__ = "0.1.0"
