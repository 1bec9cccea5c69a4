"""Writing files so that a kill at any moment leaves either the old content or the new one, never a mixture."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

# The only way to read the umask is to set it: once at import, before any thread of ours exists.
_UMASK = os.umask(0o077)
os.umask(_UMASK)


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` to a temporary name in the same folder, sync it, rename it to `path` and sync the folder.

    The folder must exist. On any failure (a full disk, a kill) what stood at `path` before stays untouched. Raises
    OSError.
    """
    write_chunks_atomic(path, (data,))


def write_chunks_atomic(path: Path, chunks: Iterable[bytes]) -> None:
    """`write_atomic` of data that need not be in memory at once; where making it fails, too, `path` stays as it was."""
    # A name may have 255 bytes, and a character 4.
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:50]}.", suffix=".tmp")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            # mkstemp makes private files; what is written here has the permissions any other new file would get.
            os.fchmod(file.fileno(), 0o666 & ~_UMASK)
            file.writelines(chunks)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` survive a power loss."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
