"""The errors that a user can meet. Each message names the offending value, what is allowed, and what to do.

``retryable`` tells the orchestrator whether the same job may succeed later; ``exit_code`` is what ``lfm`` exits with.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LfmError(Exception):
    """Root of every error that this package raises on purpose."""

    exit_code = 1
    retryable = False


class InvalidInput(LfmError):
    """Something a person wrote (a config, a name, a file) cannot be used as it is."""

    exit_code = 2


class ConfigError(InvalidInput):
    """An unknown key, a value out of bounds, or options that do not go together."""


class ReferenceRefused(InvalidInput):
    """A reference outside the known schemes or the allowed prefixes, or one that names nothing."""


class DataError(InvalidInput):
    """The data set cannot be used: missing column, no rows, one class, undecodable bytes, leaking splits."""


class UnsafeModel(InvalidInput):
    """A model directory that carries code or pickled weights."""


class IncompatibleModels(InvalidInput):
    """Models that do not fit together: an adapter on the wrong base, vocabularies that differ."""


class IntegrityError(LfmError):
    """Bytes in the store are not the bytes that were committed."""

    exit_code = 3


class NonFiniteLoss(LfmError):
    """Training met a NaN or infinite loss or gradient."""

    exit_code = 4


class Conflict(LfmError):
    """Somebody else moved what this step expected to move."""

    exit_code = 5


class Revoked(LfmError):
    """Something was made from a data set or a model that a person has revoked since."""

    exit_code = 6


class Unavailable(LfmError):
    """A service did not answer in time; the same job may succeed later."""

    exit_code = 75
    retryable = True


class StoreUnavailable(Unavailable):
    """The object store did not answer, or has no room left."""


class TrackingUnavailable(Unavailable):
    """MLflow did not answer."""


class TeacherUnavailable(Unavailable):
    """A teacher behind an API left too many questions without an answer."""


class BudgetSpent(LfmError):
    """What a teacher's answers may cost is spent, and the config says that this is a failure."""

    exit_code = 7


class AttemptKilled(LfmError):
    """The attempt was asked to stop; what could be kept is in its checkpoint."""

    exit_code = 143


class AttemptCrashed(LfmError):
    """The child process ended without a result: a signal, an out-of-memory kill, an interpreter crash."""

    exit_code = 70
    retryable = True


def unknown_name(what: str, name: str, allowed: Iterable[str]) -> str:
    """A sentence that refuses ``name``, offers the nearest allowed one, and lists them all."""
    known = sorted(allowed)
    near = difflib.get_close_matches(str(name), known, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return f"Unknown {what} '{name}'.{hint} Allowed: {', '.join(known) or 'none'}."
