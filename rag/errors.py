"""What can go wrong with documents.

RagError
├── CollectionError   no such collection, a name that cannot be one, or a model that does not fit
├── FileError         one file cannot be read; the rest of the batch goes on
├── EmbedderError     the embedding model cannot be loaded or does not answer
├── StoreError        the disk is full, or the vector server does not answer
└── GatewayError      `rag ask` got no answer
"""

from personas.errors import GamyeonError


class RagError(GamyeonError):
    """Base of the errors about documents."""


class CollectionError(RagError):
    """No such collection, a name that cannot be one, or a model that does not fit."""


class FileError(RagError):
    """One file cannot be read.

    Args:
        code: a short stable name of the fault, for programs (`encrypted`, `damaged`, `empty`, …).
    """

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.code = code


class EmbedderError(RagError):
    """The embedding model cannot be loaded or does not answer."""


class StoreError(RagError):
    """The disk is full, or the vector server does not answer."""


class GatewayError(RagError):
    """`rag ask` got no answer from the gateway."""
