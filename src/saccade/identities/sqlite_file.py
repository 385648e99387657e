"""The SQLite file behind a database of people: tables, connections that wait for their turn, errors in our words."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from saccade.errors import ModelFileError, ResourceError

APPLICATION = 0x53414343  # "SACC" in the head of the file: whose it is
FORMAT = 1  # raised when older readers could no longer understand the tables
WAIT = 30.0  # seconds for the turn of a process
HEAD = b"SQLite format 3\x00"
TABLES = """
CREATE TABLE about (one INTEGER PRIMARY KEY CHECK (one = 1), model TEXT NOT NULL, length INTEGER NOT NULL,
    changes INTEGER NOT NULL, to_clear INTEGER NOT NULL);
CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE pictures (id INTEGER PRIMARY KEY AUTOINCREMENT, person INTEGER NOT NULL REFERENCES people(id),
    digest BLOB NOT NULL UNIQUE, embedding BLOB NOT NULL);
CREATE INDEX pictures_of ON pictures(person);
"""


def make(path: Path, model: str, length: int) -> None:
    """A file with empty tables."""
    connection = connect(path, "rwc")
    try:
        with sqlite_errors(path):
            connection.executescript(f"BEGIN; {TABLES}")
            connection.execute("INSERT INTO about VALUES (1, ?, ?, 0, 0)", (model, length))
            connection.execute(f"PRAGMA application_id = {APPLICATION}")
            connection.execute(f"PRAGMA user_version = {FORMAT}")
            connection.execute("COMMIT")
    finally:
        connection.close()


def connect(path: Path, mode: str) -> sqlite3.Connection:
    """A connection that waits for its turn, overwrites what it deletes and believes nothing that the file says of
    itself (https://www.sqlite.org/security.html)."""
    with sqlite_errors(path):
        name = path.absolute().as_uri()
        connection = sqlite3.connect(f"{name}?mode={mode}", uri=True, timeout=WAIT, isolation_level=None)
        for setting in ("secure_delete = ON", "synchronous = FULL", "foreign_keys = ON", "trusted_schema = OFF"):
            connection.execute(f"PRAGMA {setting}")
        connection.execute("PRAGMA cell_size_check = ON")
    return connection


@contextmanager
def sqlite_errors(path: Path, besides: str = "") -> Iterator[None]:
    """SQLite's errors in our words."""
    try:
        yield
    except sqlite3.Error as error:
        text = f"{path}: {error}" + (f"; {besides}" if besides else "")
        code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise ResourceError(f"{text}. Another process kept it for more than {WAIT:.0f} s; try again") from error
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or isinstance(error, sqlite3.DataError):
            raise ModelFileError(f"{text}. The file is damaged; nothing was written. Use a copy of it") from error
        if code == sqlite3.SQLITE_ERROR:  # tables or columns that are not there
            raise ModelFileError(f"{text}. The file is damaged, or no database of people") from error
        raise ResourceError(text) from error
