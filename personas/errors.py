"""The exception tree of the ground floor.

    GamyeonError
    ├── PersonaError     a persona folder is missing or faulty
    ├── BaseModelError   a base model cannot be found, verified or prepared
    ├── AdapterError     an adapter does not fit, is damaged or is not in the store
    └── RegistryError    a persona or version is not registered

Every error carries a message that says what is wrong and where, and a hint that names the next command to run.
Only command lines and HTTP handlers turn them into text.
"""


class GamyeonError(Exception):
    """Base of all errors that a user can cause and mend.

    Args:
        message: what is wrong and where (file, line, field).
        hint: the next command to run, or what to change; may be empty.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class PersonaError(GamyeonError):
    """A persona folder is missing or faulty."""


class BaseModelError(GamyeonError):
    """A base model cannot be found, verified or prepared."""


class AdapterError(GamyeonError):
    """An adapter does not fit its base, is damaged, or is not in the store."""


class RegistryError(GamyeonError):
    """A persona or a version is not registered."""
