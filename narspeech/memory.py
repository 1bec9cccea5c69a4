"""What becomes of memory that was freed: glibc's malloc is told to keep it, or to give it back."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress

_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # glibc's malloc.h
_MALLOC_SETTINGS = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Have glibc keep large freed blocks for the next batch instead of giving them back; True where it did.

    Each batch otherwise faults its activations in afresh, which can cost a large part of the throughput on a CPU.
    Only the command does this: a library must not set a process-wide policy for its host. Does nothing without
    glibc, and nothing where the user set malloc's own variables.
    """
    if any(name in os.environ for name in _MALLOC_SETTINGS):
        return False
    try:
        os.confstr("CS_GNU_LIBC_VERSION")
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, ValueError):
        return False  # Windows, macOS, musl
    # glibc before 2.35 refuses a threshold above 32 MiB. Setting the trim threshold alone would do harm: it freezes
    # the other one at 128 KiB.
    if not any(mallopt(_MMAP_THRESHOLD, threshold) for threshold in (1 << 30, 1 << 25)):
        return False
    return bool(mallopt(_TRIM_THRESHOLD, 2**31 - 1))


def give_back_freed_memory() -> None:
    """Have glibc give all freed blocks back to the system; does nothing without glibc.

    Tensors of ever new sizes leave gaps that fit no later one, so that a process which lives long grows, the more so
    where freed memory is kept.
    """
    with suppress(AttributeError, OSError, TypeError):  # Windows, macOS, musl
        ctypes.CDLL(None).malloc_trim(0)
