"""Locks that end with their process, however that ends."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rankdet.structures import InputError

_HELD: set[int] = set()
"""Descriptors of locks that child processes close: a worker that reads images outlives a killed training by seconds."""
_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""What a file system answers that has no locks."""


def take_lock(path: Path) -> int | None:
    """A descriptor that holds the lock of a file, or None where another process holds it.

    The file is made where it is missing. The lock ends when all copies of the descriptor are closed, as the system does
    where a process is killed. A file system without locks keeps nobody out.

    Raises
    ------
    OSError
        When the file cannot be opened.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError as error:
            if error.errno not in _WITHOUT_LOCKS:
                os.close(descriptor)
                raise
        # The holder before may have deleted the file between the two calls: then it is another file that counts.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        os.close(descriptor)


@contextlib.contextmanager
def locked(path: Path, what: str, patience: float = 0.0, say: Callable[[str], object] = print) -> Iterator[None]:
    """Hold the lock of a file, which says who holds it and is deleted at the end.

    Where another process holds it, it is waited for ``patience`` seconds, and told by ``say``.

    Raises
    ------
    InputError
        When another process holds it, with ``what`` before the name of that process, or the file cannot be written.
    """
    try:
        descriptor = take_lock(path)
        if descriptor is None and patience > 0:
            say(f"{what} {_holder(path)}; waiting at most {patience:.0f} s for its end")
            end = time.monotonic() + patience
            while descriptor is None and time.monotonic() < end:
                time.sleep(0.2)
                path.parent.mkdir(parents=True, exist_ok=True)  # one that ends without a checkpoint takes it along
                descriptor = take_lock(path)
        if descriptor is None:
            raise InputError(f"{what} {_holder(path)}")
        os.truncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error
    _HELD.add(descriptor)
    try:
        yield
    finally:
        _HELD.discard(descriptor)
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(descriptor)


def _holder(path: Path) -> str:
    """Who holds a lock, as its file says; it may be too early or too late to know."""
    try:
        return path.read_text(encoding="utf-8") or "another process"
    except OSError:
        return "another process"


def _close_held() -> None:
    for descriptor in _HELD:
        os.close(descriptor)
    _HELD.clear()


os.register_at_fork(after_in_child=_close_held)
