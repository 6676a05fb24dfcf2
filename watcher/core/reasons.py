"""Words by which the parts know what a mount has come to: how an error begins, or why something ended."""

from __future__ import annotations

NO_LONGER = "no longer mounted"  # how the error begins of what was there
SEES_DISK = "sees the disk"  # how the error begins of a container that does, in place of a mount
DISK_GONE = "its disk is gone"  # how the error begins of what is still mounted, but has lost what it lay on
POOL_SUSPENDED = "its ZFS pool is suspended"
LOST = (DISK_GONE, POOL_SUSPENDED)
MOUNTED = "mounted"  # why it ends that something is missing that never stood before
