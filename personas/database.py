"""How every SQLite file of the house is opened."""

import sqlite3
import time
from pathlib import Path


def connect(file: Path, timeout: float) -> sqlite3.Connection:
    """A connection in write-ahead mode and autocommit, for threads that take turns; the file is made if it is missing.

    Args:
        file: the database.
        timeout: seconds that a statement waits for another writer.

    Raises:
        sqlite3.OperationalError: the file cannot be opened, or another process held it all that time.
        sqlite3.DatabaseError: it is no database.
    """
    database = sqlite3.connect(file, timeout=timeout, isolation_level=None, check_same_thread=False)
    until = time.monotonic() + timeout
    while True:
        try:
            database.execute("PRAGMA journal_mode = WAL")
            return database
        except sqlite3.DatabaseError as error:
            # The switch of a new file from a read to a write lock is the one place where SQLite does not wait:
            # https://www.sqlite.org/c3ref/busy_handler.html, on two that hold a read lock and would wait for each other
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                database.close()
                raise
            time.sleep(0.01)
