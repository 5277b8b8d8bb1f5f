"""Canary, rollback, refusal, and the commands over them."""

import re
import sqlite3
import sys
from pathlib import Path

import pytest
from fixtures_tiny import hand_base, make_adapter, manifest_fields

from personas.adapters import AdapterStore
from personas.cli import app
from personas.console import run
from personas.errors import RegistryError
from personas.home import Home
from personas.registry import Registry, Route
from personas.versions_cli import parse_weight


@pytest.fixture
def registry(home: Home, tmp_path: Path) -> Registry:
    """Three published versions of stark, the first live."""
    registry, store = Registry(home.database), AdapterStore(home.adapters)
    for version in (1, 2, 3):
        source = make_adapter(tmp_path / str(version), float(version))
        fields = {**manifest_fields(), "recipe": {"name": "sft", "rate": version}, "scores": {"loss": version / 2}}
        store.publish(source, fields, hand_base())
        registry.add("stark", version)
    registry.promote("stark", 1, "tony", "first")
    return registry


def personas(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["personas", *arguments])
    with pytest.raises(SystemExit) as ended:
        run(app)
    return int(ended.value.code or 0)


def test_a_canary_gets_its_share_and_keeps_its_users(registry: Registry) -> None:
    users = [f"user{number}" for number in range(10_000)]
    registry.canary("stark", 2, 10, "tony", "try")
    ten = {user for user in users if registry.route("stark").version_for(user) == 2}
    assert 900 < len(ten) < 1100
    registry.canary("stark", 2, 30, "tony", "more")
    thirty = {user for user in users if registry.route("stark").version_for(user) == 2}
    assert 2800 < len(thirty) < 3200
    assert ten < thirty
    registry.canary("stark", 3, 10, "tony", "another")
    other = {user for user in users if registry.route("stark").version_for(user) == 3}
    assert len(other & ten) < 200  # not always the same users
    registry.canary("stark", 3, 0, "tony", "enough")
    assert {registry.route("stark").version_for(user) for user in users} == {1}


def test_a_hundred_percent_is_everybody() -> None:
    assert {Route("stark", 1, 2, 100.0).version_for(str(n)) for n in range(1000)} == {2}


@pytest.mark.parametrize(("version", "weight"), [(1, 10), (9, 10), (2, 101), (2, -1), (2, float("nan"))])
def test_what_cannot_be_a_canary_changes_nothing(registry: Registry, version: int, weight: float) -> None:
    registry.canary("stark", 3, 5, "tony", "")
    with pytest.raises(RegistryError):
        registry.canary("stark", version, weight, "tony", "")
    assert registry.route("stark") == Route("stark", 1, 3, 5.0)
    assert len(registry.history("stark")) == 2


def test_promotion_ends_the_canary(registry: Registry) -> None:
    registry.canary("stark", 2, 10, "tony", "")
    registry.promote("stark", 2, "tony", "good")
    assert registry.route("stark") == Route("stark", 2)


def test_rollback_undoes_the_canary_then_promotions_in_turn(registry: Registry) -> None:
    registry.promote("stark", 2, "tony", "")
    registry.promote("stark", 2, "tony", "again")
    registry.promote("stark", 3, "tony", "")
    registry.refuse("stark", 2, "gate", "loops")
    registry.canary("stark", 1, 20, "tony", "")
    assert registry.rollback("stark", "tony", "") == Route("stark", 3)
    assert registry.rollback("stark", "tony", "").live == 2
    assert registry.rollback("stark", "tony", "bad").live == 1
    with pytest.raises(RegistryError, match="stark"):
        registry.rollback("stark", "tony", "")
    registry.promote("stark", 3, "tony", "")
    assert registry.rollback("stark", "tony", "").live == 1
    actions = [move.action for move in registry.history("stark")]
    assert actions[:9] == ["promote"] * 4 + ["refuse", "canary", "canary-end", "rollback", "rollback"]


def test_another_gateway_sees_every_move_at_once(registry: Registry, home: Home) -> None:
    other = Registry(home.database)
    registry.canary("stark", 2, 50, "tony", "")
    assert other.route("stark") == Route("stark", 1, 2, 50.0)
    other.rollback("stark", "pepper", "")
    assert registry.route("stark") == Route("stark", 1)


def test_a_database_of_the_first_release_is_taken_over(tmp_path: Path) -> None:
    old = sqlite3.connect(tmp_path / "old.db")
    old.executescript("""
        CREATE TABLE versions (persona TEXT NOT NULL, version INTEGER NOT NULL, PRIMARY KEY (persona, version));
        CREATE TABLE history (id INTEGER PRIMARY KEY, persona TEXT NOT NULL, version INTEGER NOT NULL,
            at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ')), who TEXT NOT NULL, why TEXT NOT NULL);
        INSERT INTO history (persona, version, who, why) VALUES ('stark', 1, 'gamyeon', 'shipped');
    """)
    old.close()
    for _ in range(2):
        (move,) = Registry(tmp_path / "old.db").history("stark")
        assert (move.action, move.why, move.weight) == ("promote", "shipped", None)


@pytest.mark.parametrize("text", ["10%", "10", " 10 % ", "10.0%"])
def test_weights(text: str) -> None:
    assert parse_weight(text) == 10


@pytest.mark.parametrize("text", ["", "%", "ten", "-1", "1e1", "nan"])
def test_not_weights(text: str) -> None:
    with pytest.raises(RegistryError):
        parse_weight(text)


def test_the_commands(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], home: Home
) -> None:
    assert personas(monkeypatch, "promote", "stark@v2", "--why", "better") == 0
    assert personas(monkeypatch, "canary", "stark@v3", "--weight", "10%") == 0
    assert personas(monkeypatch, "versions", "stark") == 0
    shown = capsys.readouterr().out
    assert "10%" in shown
    assert "better" in shown
    assert personas(monkeypatch, "rollback", "stark") == 0
    assert registry.route("stark") == Route("stark", 2)
    assert personas(monkeypatch, "rollback", "stark", "--why", "worse") == 0
    assert registry.route("stark") == Route("stark", 1)
    assert registry.history("stark")[-1].why == "worse"
    assert personas(monkeypatch, "diff", "stark@v1", "stark@v2") == 0
    shown = capsys.readouterr().out
    assert re.search(r"recipe\.rate\W+1\W+2", shown)
    assert re.search(r"scores\.loss\W+0\.5\W+1\.0", shown)


def test_tables_are_in_the_readers_language(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (("ls",), ("versions", "stark")):
        assert personas(monkeypatch, "--lang", "ko", *arguments) == 0
        titles = capsys.readouterr().out.splitlines()[1]
        assert not re.search("[a-z]", titles), titles


@pytest.mark.parametrize(
    "arguments",
    [("promote", "stark@v9"), ("promote", "stark"), ("canary", "stark@v1", "--weight", "10%"), ("versions", "pepper")],
)
def test_faults_are_told_and_change_nothing(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    assert personas(monkeypatch, *arguments) == 1
    assert capsys.readouterr().err.startswith("error: ")
    assert registry.route("stark") == Route("stark", 1)
    assert len(registry.history("stark")) == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("canary", "stark@v9", "--weight", "10%"), "no stark@v9 (stored: stark@v1, stark@v2, stark@v3)\n→ personas"),
        (("promote", "pepper@v1"), "no pepper@v1 (stored: "),
        (("diff", "stark@v1", "stark@v9"), "no stark@v9 (stored: "),
        (("versions", "pepper"), "no persona 'pepper'"),
        (("versions", "safe"), "safe: no version\n→ tune persona safe"),
    ],
)
def test_a_name_that_is_not_there_is_told_with_those_that_are(
    registry: Registry,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    told: str,
) -> None:
    assert personas(monkeypatch, *arguments) == 1
    error = capsys.readouterr().err
    assert told in error
    assert "No such file" not in error
    assert registry.versions("stark") == [1, 2, 3]


def test_a_damaged_version_is_not_promoted(registry: Registry, monkeypatch: pytest.MonkeyPatch, home: Home) -> None:
    (AdapterStore(home.adapters).folder("stark", 2) / "adapter_model.safetensors").write_bytes(b"x")
    assert personas(monkeypatch, "promote", "stark@v2") == 1
    assert registry.live("stark") == 1
