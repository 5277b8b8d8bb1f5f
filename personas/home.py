"""Where state lives: `GAMYEON_HOME`, by default the platform's user data folder."""

import os
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_data_path


@dataclass(frozen=True)
class Home:
    """The state folders under one root; each is made on first use."""

    root: Path

    @classmethod
    def from_env(cls) -> "Home":
        root = os.environ.get("GAMYEON_HOME")
        return cls(Path(root).expanduser().resolve() if root else user_data_path("gamyeon"))

    def _made(self, name: str) -> Path:
        path = self.root / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    @property
    def models(self) -> Path:
        """Prepared base models, one folder each."""
        return self._made("models")

    @property
    def adapters(self) -> Path:
        """The adapter store: immutable folders `<persona>@v<N>`."""
        return self._made("adapters")

    @property
    def runs(self) -> Path:
        """Tuning runs: checkpoints and settings."""
        return self._made("runs")

    @property
    def logs(self) -> Path:
        return self._made("logs")

    @property
    def chroma(self) -> Path:
        """Vectors of documents, when Chroma runs inside the process."""
        return self._made("chroma")

    @property
    def examples(self) -> Path:
        """Vectors of the personas' example memories."""
        return self._made("examples")

    @property
    def documents(self) -> Path:
        """The database of documents and passages."""
        self.root.mkdir(parents=True, exist_ok=True)
        return self.root / "documents.db"

    @property
    def uploads(self) -> Path:
        """Files that came over the API, a folder a collection."""
        return self._made("uploads")

    @property
    def database(self) -> Path:
        self.root.mkdir(parents=True, exist_ok=True)
        return self.root / "gamyeon.db"
