"""Files that something has happened to: pieces of their bytes are gone, doubled or replaced."""

from __future__ import annotations

import re
from typing import NamedTuple

from hypothesis import strategies as st

TEXTS = (*"{}[]<>:;,.\"'-#&*!|%/=\n\t 0", "\x00", "nan", "-1e400", "null", "true", "é", "9" * 30, "9" * 400)
PIECES = [text.encode() for text in TEXTS] + [b"\xff\xfe", b"\xff", b"\x00" * 4, b"\xff" * 4]
"""What may stand in the place of something else."""


class Edit(NamedTuple):
    """A part of a file in thousandths of its length, and what stands there instead: bytes, or another part.

    A length of None is all that follows.
    """

    start: int
    length: int | None
    piece: bytes | int

    def of(self, content: bytes) -> bytes:
        """The file, edited."""
        start = self.start * len(content) // 1000
        end = len(content) if self.length is None else start + self.length
        piece = self.piece
        if isinstance(piece, int):
            place = piece * len(content) // 1000
            piece = content[place : place + 16]
        return content[:start] + piece + content[end:]


class Value(NamedTuple):
    """A number or a word of a text, by its place in thousandths of all of them, and what stands there instead."""

    place: int
    piece: bytes

    def of(self, content: bytes) -> bytes:
        """The text, edited."""
        found = list(re.finditer(rb"-?[\d.]+|\w+", content)) or [None]
        chosen = found[self.place * (len(found) - 1) // 1000]
        return content if chosen is None else content[: chosen.start()] + self.piece + content[chosen.end() :]


Edits = list[Edit | Value]
EDITS = st.lists(
    st.builds(
        Edit,
        st.integers(0, 1000),
        st.sampled_from([1, 1, 1, 0, 2, 4, 9, 40, None]),
        st.sampled_from(PIECES) | st.binary(max_size=4) | st.integers(0, 1000),
    ),
    min_size=1,
    max_size=4,
)
"""Of any file."""
EDITS_OF_TEXT: st.SearchStrategy[Edits] = EDITS | st.lists(
    st.builds(Value, st.integers(0, 1000), st.sampled_from(PIECES)), min_size=1, max_size=3
)


def edited(content: bytes, edits: Edits) -> bytes:
    """A file after some edits."""
    for edit in edits:
        content = edit.of(content)
    return content
