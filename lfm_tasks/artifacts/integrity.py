"""What to say of a file whose bytes are not those that were committed."""

from __future__ import annotations

from lfm_tasks.errors import IntegrityError

_MEND = "Restore the file, or delete the artifact's directory and run the step that made it again."


def gone(name: str) -> IntegrityError:
    return IntegrityError(f"{name} is gone from the store. {_MEND}")


def changed(name: str, actual: str, wanted: str) -> IntegrityError:
    """``actual`` says what it has (``sha256 …``), ``wanted`` what it should."""
    return IntegrityError(f"{name} has {actual}, not {wanted}: its bytes changed after they were committed. {_MEND}")
