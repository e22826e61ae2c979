"""Numbers of things in messages."""

from __future__ import annotations


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun, which is singular for one; ``plural`` is for nouns that do more than get an s.

    Examples
    --------
    >>> counted(1, "image"), counted(12000, "image"), counted(0, "class", "classes")
    ('1 image', '12000 images', '0 classes')
    """
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"
