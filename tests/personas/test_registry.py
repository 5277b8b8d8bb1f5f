from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Barrier, Event

import pytest
from fixtures_tiny import hand_base, make_adapter, manifest_fields

from personas.adapters import AdapterStore
from personas.errors import RegistryError
from personas.home import Home
from personas.registry import Registry


@pytest.fixture
def registry(home: Home) -> Registry:
    return Registry(home.database)


def test_nothing_is_live_at_first(registry: Registry) -> None:
    assert registry.live("stark") is None
    assert registry.versions("stark") == []
    assert registry.history("stark") == []


def test_promote_moves_the_alias_and_keeps_history(registry: Registry) -> None:
    for version in (1, 2):
        registry.add("stark", version)
        registry.add("stark", version)
    registry.add("pepper", 5)
    for version, why in ((1, "first"), (2, "better"), (1, "rollback")):
        registry.promote("stark", version, "tony", why)
    assert registry.live("stark") == 1
    assert registry.live("pepper") is None
    assert registry.versions("stark") == [1, 2]
    moves = registry.history("stark")
    assert [(move.version, move.who, move.why) for move in moves] == [
        (1, "tony", "first"),
        (2, "tony", "better"),
        (1, "tony", "rollback"),
    ]
    times = [datetime.fromisoformat(move.at) for move in moves]
    assert times == sorted(times)
    assert abs(datetime.now(UTC) - times[-1]) < timedelta(minutes=1)


@pytest.mark.parametrize(("persona", "version"), [("stark", 2), ("pepper", 1), ("stark", 0)])
def test_unregistered_version_is_refused(registry: Registry, persona: str, version: int) -> None:
    registry.add("stark", 1)
    registry.promote("stark", 1, "tony", "first")
    with pytest.raises(RegistryError, match=f"{persona}@v{version}") as caught:
        registry.promote(persona, version, "tony", "typo")
    assert caught.value.hint == "personas ls"
    assert registry.live("stark") == 1
    assert len(registry.history("stark")) == 1
    assert registry.history("pepper") == []


def test_two_registries_agree_at_once(registry: Registry, home: Home) -> None:
    other = Registry(home.database)
    for version in range(1, 6):
        registry.add("stark", version)
        assert other.has("stark", version)
        registry.promote("stark", version, "tony", "")
        assert other.live("stark") == version
    other.promote("stark", 1, "pepper", "back")
    assert registry.live("stark") == 1
    assert registry.history("stark") == other.history("stark")


def test_state_survives_closing(registry: Registry, home: Home) -> None:
    registry.add("stark", 3)
    registry.promote("stark", 3, "tony", "")
    registry.close()
    assert Registry(home.database).live("stark") == 3


@pytest.mark.timeout(60)
def test_reader_sees_the_old_or_the_new(registry: Registry, home: Home) -> None:
    for version in (1, 2):
        registry.add("stark", version)
    registry.promote("stark", 1, "tony", "")
    done = Event()

    def read() -> set[int | None]:
        own, seen = Registry(home.database), set()
        while not done.is_set():
            seen.add(own.live("stark"))
            assert len({move.version for move in own.history("stark")} - {1, 2}) == 0
        return seen

    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read)
        try:
            for number in range(100):
                registry.promote("stark", 1 + (number + 1) % 2, "tony", str(number))
        finally:
            done.set()
        assert reading.result() <= {1, 2}
    assert len(registry.history("stark")) == 101


@pytest.mark.timeout(60)
def test_writers_at_once_lose_nothing(registry: Registry, home: Home) -> None:
    registry.add("stark", 1)

    def write(number: int) -> None:
        own = Registry(home.database)
        for _ in range(10):
            own.promote("stark", 1, f"writer{number}", "")

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(write, range(3)))
    assert len(registry.history("stark")) == 30


@pytest.mark.timeout(60)
def test_opening_at_once_makes_one_database(tmp_path: Path) -> None:
    for trial in range(20):
        database, barrier = tmp_path / f"new{trial}.db", Barrier(6)

        def open_(_: int, database: Path = database, barrier: Barrier = barrier) -> None:
            barrier.wait(10)
            with closing(Registry(database)) as registry:
                registry.add("stark", 1)

        with ThreadPoolExecutor(6) as pool:
            list(pool.map(open_, range(6)))
        with closing(Registry(database)) as registry:
            assert registry.versions("stark") == [1]


def test_reconcile_admits_what_the_store_holds(registry: Registry, home: Home, tmp_path: Path) -> None:
    store = AdapterStore(home.adapters)
    source = make_adapter(tmp_path / "source")
    for persona in ("stark", "stark", "pepper"):
        store.publish(source, manifest_fields(persona), hand_base())
    registry.reconcile(store)
    assert (registry.versions("stark"), registry.versions("pepper")) == ([1, 2], [1])
    assert registry.live("stark") is None
