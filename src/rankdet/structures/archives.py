"""Files of tensors, whose checksums torch writes and does not read."""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path

from rankdet.structures.errors import DamagedError

_BROKEN = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError, ValueError)
"""What reading a broken archive raises."""


def check_archive(path: Path) -> None:
    """Read a file of ``torch.save`` to its end, before anything in it is used; nothing of it is kept in memory.

    Such a file is a zip archive with a CRC-32 for each tensor, which finds every single bit that has flipped. Files of
    other forms have no checksums, and are left to their reader.

    Raises
    ------
    OSError
        When the file cannot be read.
    DamagedError
        When it is no regular file, or a part of it has not its checksum.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise DamagedError(f"{path} is no regular file")  # reading a pipe would wait for ever
    try:
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except _BROKEN as error:
        raise DamagedError(f"{path} is damaged: {error}") from error
    if damaged is not None:
        raise DamagedError(f"{path} is damaged: {damaged} in it does not have its checksum")
