from pathlib import Path

import pytest
from fixtures_tiny import hand_base, make_adapter, manifest_fields

from personas.adapters import AdapterStore, Manifest
from personas.home import Home
from personas.loader import PersonaFolder
from personas.registry import Registry
from personas.schema import Persona
from personas.shipped import install_shipped


@pytest.fixture
def store(home: Home) -> AdapterStore:
    return AdapterStore(home.adapters)


@pytest.fixture
def registry(home: Home) -> Registry:
    return Registry(home.database)


class Shipping:
    """A persona folder whose shipped adapter can be replaced, as an upgrade of the program does."""

    def __init__(self, root: Path) -> None:
        persona = Persona(name="stark", title="t", description="d", greeting="g", system_prompt="s")
        self.folder = PersonaFolder(persona, root / "stark")
        self.root = root
        self.count = 0

    def ship(self, value: float) -> None:
        self.count += 1
        made = AdapterStore(self.root / f"made{self.count}")
        made.root.mkdir(parents=True)
        made.publish(make_adapter(self.root / "source", value), manifest_fields(), hand_base())
        if self.folder.shipped_adapter.exists():
            self.folder.shipped_adapter.rename(self.root / f"old{self.count}")
        self.folder.path.mkdir(exist_ok=True)
        made.folder("stark", 1).rename(self.folder.shipped_adapter)

    def install(self, store: AdapterStore, registry: Registry) -> list[Manifest]:
        return install_shipped({"stark": self.folder}, store, registry)


@pytest.fixture
def shipping(tmp_path: Path) -> Shipping:
    return Shipping(tmp_path / "shipping")


def tune(store: AdapterStore, registry: Registry, tmp_path: Path, promote: bool = True) -> int:
    version = store.publish(make_adapter(tmp_path / "tuned", 7.0), manifest_fields(), hand_base()).version
    if promote:
        registry.add("stark", version)
        registry.promote("stark", version, "tony", "tune persona")
    return version


def test_without_a_shipped_adapter_nothing_happens(store: AdapterStore, registry: Registry, shipping: Shipping) -> None:
    assert shipping.install(store, registry) == []
    assert registry.live("stark") is None


def test_goes_live_over_nothing_once(store: AdapterStore, registry: Registry, shipping: Shipping) -> None:
    shipping.ship(1.0)
    assert [made.id for made in shipping.install(store, registry)] == ["stark@v1"]
    assert registry.live("stark") == 1
    assert shipping.install(store, registry) == []
    assert [move.version for move in registry.history("stark")] == [1]


def test_goes_live_over_an_older_shipped_one(store: AdapterStore, registry: Registry, shipping: Shipping) -> None:
    for value in (1.0, 2.0):
        shipping.ship(value)
        shipping.install(store, registry)
    assert registry.live("stark") == 2
    assert {move.who for move in registry.history("stark")} == {"gamyeon"}


def test_never_goes_live_over_the_users(
    store: AdapterStore, registry: Registry, shipping: Shipping, tmp_path: Path
) -> None:
    shipping.ship(1.0)
    shipping.install(store, registry)
    tuned = tune(store, registry, tmp_path)
    shipping.ship(2.0)
    assert [made.version for made in shipping.install(store, registry)] == [3]
    assert registry.live("stark") == tuned == 2
    assert registry.versions("stark") == [1, 2, 3]


def test_never_goes_live_over_the_users_choice_of_a_shipped_one(
    store: AdapterStore, registry: Registry, shipping: Shipping
) -> None:
    for value in (1.0, 2.0):
        shipping.ship(value)
        shipping.install(store, registry)
    registry.promote("stark", 1, "tony", "rollback")
    shipping.ship(3.0)
    shipping.install(store, registry)
    assert registry.live("stark") == 1


def test_recovers_a_version_that_was_not_registered(
    store: AdapterStore, registry: Registry, shipping: Shipping, tmp_path: Path
) -> None:
    version = tune(store, registry, tmp_path, promote=False)
    assert not registry.has("stark", version)
    shipping.install(store, registry)
    assert registry.has("stark", version)


def test_recovers_from_a_kill_before_the_first_went_live(
    store: AdapterStore, registry: Registry, shipping: Shipping
) -> None:
    shipping.ship(1.0)
    store.install(shipping.folder.shipped_adapter)  # and killed here
    assert shipping.install(store, registry) == []
    assert registry.live("stark") == 1


def test_recovers_from_a_kill_before_the_newer_went_live(
    store: AdapterStore, registry: Registry, shipping: Shipping
) -> None:
    shipping.ship(1.0)
    shipping.install(store, registry)
    shipping.ship(2.0)
    store.install(shipping.folder.shipped_adapter)  # and killed here
    shipping.install(store, registry)
    assert registry.live("stark") == 2
