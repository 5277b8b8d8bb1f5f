"""kill -9 at random moments of an ingest: nothing acknowledged is lost or doubled, and the next run completes it."""

import hashlib
import os
import random
import subprocess
import sys
import time
from pathlib import Path

from personas.home import Home
from rag.settings import RagSettings
from rag.store import Store
from rag.vectors import VectorIndex
from rag.words import table_of

KILLS = int(os.environ.get("GAMYEON_TEST_KILLS", "20"))
_FILES = 10


def _write(folder: Path, number: int, turn: int) -> None:
    text = "\n\n".join(
        f"{number}번 문서의 {turn}판 {part}째 대목입니다. "
        f"정수기의 필터는 {turn + part}개월마다 바꾸고 기록을 남깁니다. "
        f"담당자는 {number * 7 + turn}호실에서 점검표를 확인한 다음 서명합니다."
        for part in range(12)
    )
    (folder / f"문서{number}.txt").write_text(text, encoding="utf-8")


def _sound(home: Home) -> dict[str, str]:
    """Check that every part agrees with every other; returns the hash of each document by source."""
    store = Store.open(home)
    assert store.db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    collection = store.find("docs")
    if collection is None:
        return {}
    rows = store.documents(collection)
    assert len({row.source for row in rows}) == len(rows)
    passages = {p.id for row in rows for p in store.document_passages(row.id)}
    indexed = {row[0] for row in store.db.execute(f'SELECT rowid FROM "{table_of(collection.id)}"')}
    assert indexed == passages
    store.close()
    return {row.source: row.sha256 for row in rows}


def test_killed_at_any_moment(home: Home, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    chance = random.Random(11)
    for number in range(_FILES):
        _write(folder, number, 0)
    command = [sys.executable, "-m", "rag.cli", "ingest", str(folder), "--collection", "docs"]
    acknowledged: set[str] = set()
    killed = 0
    turn = 0
    longest = 4.0
    while killed < KILLS:
        turn += 1
        for number in chance.sample(range(_FILES), 4):
            _write(folder, number, turn)
        now = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}
        output = tmp_path / "output.txt"
        with output.open("w") as file:
            began = time.monotonic()
            process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
            try:
                process.wait(chance.uniform(0.2, longest))
                longest = time.monotonic() - began  # it finished: aim earlier
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                killed += 1
        have = {Path(source).name: digest for source, digest in _sound(home).items()}
        said = [line.split()[1] for line in output.read_text().splitlines() if line.startswith("✓ ")]
        acknowledged |= set(said)
        assert acknowledged <= set(have), "an acknowledged document is lost"
        assert all(have[name] == now[name] for name in said), "an acknowledged version is lost"
        longest = max(longest, 1.5)
    subprocess.run(command, check=True, capture_output=True)
    _complete(home, folder)


def _complete(home: Home, folder: Path) -> None:
    have = _sound(home)
    assert have == {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}
    store = Store.open(home)
    collection = store.collection("docs")
    rows = store.documents(collection)
    passages = {p.id for row in rows for p in store.document_passages(row.id)}
    assert sum(row.waiting for row in rows) == 0
    chroma = VectorIndex(home, RagSettings(), store).client.get_collection(collection.chroma, embedding_function=None)
    assert sorted(int(i) for i in chroma.get(include=[])["ids"]) == sorted(passages)
    assert store.db.execute("SELECT COUNT(*) FROM doomed").fetchone() == (0,)
    for passage_id in passages:
        near = chroma.get(ids=[str(passage_id)], include=["embeddings"])["embeddings"]
        assert passage_id in {int(i) for i in chroma.query(query_embeddings=near, n_results=3, include=[])["ids"][0]}
