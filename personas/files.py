"""Small file operations that survive a kill: hashing, and folders that appear whole or not at all."""

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_STAGED = re.compile(r".+-([0-9]+)-[^-]+")


def sync(path: Path) -> None:
    """Flush one file, or one folder's list of names, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    """Flush every file of a folder, and the folder itself, to the disk."""
    for path in [*(p for p in folder.rglob("*") if p.is_file()), folder]:
        sync(path)


def _sweep(staging: Path) -> None:
    """Remove what killed processes left in the staging folder."""
    for left in staging.iterdir():
        owner = _STAGED.fullmatch(left.name)
        if owner and not psutil.pid_exists(int(owner[1])):
            shutil.rmtree(left, ignore_errors=True)


@contextmanager
def staged(root: Path, name: str) -> Iterator[Path]:
    """An empty staging folder under `root/.staging`, removed again however the block ends.

    The block renames the folder to its final place as its last step; what a kill leaves behind is never taken for
    a whole folder, because nothing looks inside `.staging`, and the next use removes it.
    """
    staging = root / ".staging"
    staging.mkdir(parents=True, exist_ok=True)
    _sweep(staging)
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-{os.getpid()}-", dir=staging))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
