"""What must hold of every refusal."""

from __future__ import annotations


def is_refusal(error: Exception) -> None:
    """Fails where an error says nothing to a person."""
    assert str(error), f"{error!r} says nothing"


def is_printable_refusal(error: Exception) -> None:
    """Fails where, besides, it could not be shown as it is."""
    is_refusal(error)
    assert str(error).isprintable(), f"{error!r} would act on a terminal"
