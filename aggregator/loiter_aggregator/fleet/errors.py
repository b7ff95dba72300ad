"""What keeps a question from being answered."""

from __future__ import annotations


class InvalidRequest(ValueError):
    """A request breaks a rule; the message names the field."""


class NotFound(LookupError):
    """No such host, or no such process on it; the message says what there is instead."""


class Overloaded(Exception):
    """More questions wait than are worth waiting for."""


class TookTooLong(Exception):
    """No answer came in time; the message says what to ask for instead."""


class Unavailable(Exception):
    """What is asked for can not be had at present, such as a host that is not connected; the message says why."""
