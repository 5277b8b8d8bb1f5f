import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
import torch
from fixtures_tiny import hand_base, make_adapter, manifest_fields

from personas.adapters import CONFIG_FILE, MANIFEST_FILE, WEIGHTS_FILE, AdapterStore, parse_version_id, read_manifest
from personas.bases import Base
from personas.errors import AdapterError
from personas.files import sha256_of
from personas.home import Home


@pytest.fixture
def store(home: Home) -> AdapterStore:
    return AdapterStore(home.adapters)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_adapter(tmp_path / "source")


def test_publish_numbers_versions(store: AdapterStore, source: Path) -> None:
    ids = [store.publish(source, manifest_fields(p), hand_base()).id for p in ("stark", "stark", "pepper", "stark")]
    assert ids == ["stark@v1", "stark@v2", "pepper@v1", "stark@v3"]
    assert store.versions() == [("pepper", 1), ("stark", 1), ("stark", 2), ("stark", 3)]
    assert store.versions("pepper") == [("pepper", 1)]


def test_publish_writes_manifest_and_base_name(store: AdapterStore, source: Path) -> None:
    base = hand_base()
    manifest = store.publish(source, manifest_fields(), base)
    folder = store.folder("stark", 1)
    assert sorted(path.name for path in folder.iterdir()) == sorted([CONFIG_FILE, WEIGHTS_FILE, MANIFEST_FILE])
    assert read_manifest(folder) == manifest
    assert manifest.base == {
        "name": base.name,
        "weights_sha256": base.weights_sha256,
        "template_sha256": base.template_sha256,
        "tokenizer_sha256": base.tokenizer_sha256,
    }
    assert manifest.files == {name: sha256_of(folder / name) for name in (CONFIG_FILE, WEIGHTS_FILE)}
    assert json.loads((folder / CONFIG_FILE).read_text())["base_model_name_or_path"] == base.name
    assert json.loads((source / CONFIG_FILE).read_text())["base_model_name_or_path"] == "/elsewhere"
    assert store.verify("stark", 1, base) == manifest


def test_publish_leaves_earlier_versions_alone(store: AdapterStore, source: Path, tmp_path: Path) -> None:
    store.publish(source, manifest_fields(), hand_base())
    before = {path.name: path.read_bytes() for path in store.folder("stark", 1).iterdir()}
    store.publish(make_adapter(tmp_path / "other", 2.0), manifest_fields(), hand_base())
    assert {path.name: path.read_bytes() for path in store.folder("stark", 1).iterdir()} == before
    assert list((store.root / ".staging").iterdir()) == []


@pytest.mark.parametrize("left", ["stark-999999999-abc", "stark-999999999", "stark@v9", "notes"])
def test_staging_leftover_is_not_a_version(store: AdapterStore, source: Path, left: str) -> None:
    store.publish(source, manifest_fields(), hand_base())
    shutil.copytree(store.folder("stark", 1), store.root / ".staging" / left)
    assert store.versions() == [("stark", 1)]
    assert store.publish(source, manifest_fields(), hand_base()).version == 2


@pytest.mark.timeout(5)
def test_folder_without_manifest_does_not_stop_publishing(store: AdapterStore, source: Path) -> None:
    shutil.copytree(source, store.folder("stark", 1))
    assert store.publish(source, manifest_fields(), hand_base()).version == 2


@pytest.mark.timeout(60)
def test_publishing_at_once_gives_different_versions(store: AdapterStore, tmp_path: Path) -> None:
    barrier = Barrier(2)

    def publish(number: int) -> list[int]:
        source, versions = make_adapter(tmp_path / f"source{number}", float(number)), []
        for _ in range(5):
            barrier.wait(10)
            versions.append(store.publish(source, manifest_fields(), hand_base()).version)
        return versions

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(publish, (1, 2))
    assert sorted(first + second) == list(range(1, 11))
    weights = [store.verify("stark", version, hand_base()).files[WEIGHTS_FILE] for version in range(1, 11)]
    assert {weights[version - 1] for version in first} == {sha256_of(tmp_path / "source1" / WEIGHTS_FILE)}
    assert {weights[version - 1] for version in second} == {sha256_of(tmp_path / "source2" / WEIGHTS_FILE)}


@pytest.mark.parametrize("name", [CONFIG_FILE, WEIGHTS_FILE])
@pytest.mark.parametrize("fault", ["changed", "missing"])
def test_verify_refuses_a_damaged_file(store: AdapterStore, source: Path, name: str, fault: str) -> None:
    store.publish(source, manifest_fields(), hand_base())
    file = store.folder("stark", 1) / name
    if fault == "changed":
        file.write_bytes(file.read_bytes()[:-1] + b"\0")
    else:
        file.unlink()
    with pytest.raises(AdapterError, match=name) as caught:
        store.verify("stark", 1, hand_base())
    assert caught.value.hint == "tune persona stark"


@pytest.mark.parametrize(
    ("base", "differs", "same"),
    [
        (hand_base(weights="e" * 64), ["weights_sha256 aaaaaaaaaaaa ≠ eeeeeeeeeeee"], "template"),
        (hand_base(template="f" * 64), ["template_sha256 bbbbbbbbbbbb ≠ ffffffffffff"], "weights"),
        (hand_base(name="other", weights="e" * 64), ["name hand ≠ other", "weights_sha256"], "tokenizer"),
    ],
)
def test_verify_says_what_differs(store: AdapterStore, source: Path, base: Base, differs: list[str], same: str) -> None:
    store.publish(source, manifest_fields(), hand_base())
    with pytest.raises(AdapterError, match="stark@v1") as caught:
        store.verify("stark", 1, base)
    assert all(text in caught.value.message for text in differs)
    assert same not in caught.value.message


def test_verify_of_a_missing_or_broken_version(store: AdapterStore, source: Path) -> None:
    with pytest.raises(AdapterError, match="stark@v1"):
        store.verify("stark", 1, hand_base())
    store.publish(source, manifest_fields(), hand_base())
    (store.folder("stark", 1) / MANIFEST_FILE).write_text("{")
    with pytest.raises(AdapterError, match=MANIFEST_FILE):
        store.verify("stark", 1, hand_base())


@pytest.mark.parametrize("fault", ["pickle", "nan", "inf", "truncated", "not lora", "no config", "config not JSON"])
def test_publish_refuses(store: AdapterStore, tmp_path: Path, fault: str) -> None:
    value = {"nan": float("nan"), "inf": float("inf")}.get(fault, 1.0)
    source = make_adapter(tmp_path / "bad", value, **({"peft_type": "IA3"} if fault == "not lora" else {}))
    weights, named = source / WEIGHTS_FILE, WEIGHTS_FILE
    if fault == "pickle":
        weights.unlink()
        named = "adapter_model.bin"
        torch.save({"x": torch.ones(1)}, source / named)
    elif fault == "truncated":
        weights.write_bytes(weights.read_bytes()[:40])
    elif fault == "no config":
        (source / CONFIG_FILE).unlink()
    elif fault == "config not JSON":
        (source / CONFIG_FILE).write_text("{")
    named = CONFIG_FILE if fault in ("not lora", "no config", "config not JSON") else named
    with pytest.raises(AdapterError, match=named):
        store.publish(source, manifest_fields(), hand_base())
    assert store.versions() == []


def test_install_is_done_once(store: AdapterStore, source: Path, tmp_path: Path) -> None:
    other = AdapterStore(tmp_path / "other")
    other.root.mkdir()
    other.publish(source, manifest_fields(), hand_base())
    shipped = other.folder("stark", 1)
    store.publish(make_adapter(tmp_path / "mine", 2.0), manifest_fields(), hand_base())
    installed = store.install(shipped)
    assert installed is not None
    assert installed.version == 2
    assert store.verify("stark", 2, hand_base()) == installed
    assert store.install(shipped) is None
    assert store.versions() == [("stark", 1), ("stark", 2)]
    (shipped / WEIGHTS_FILE).write_bytes(b"")
    with pytest.raises(AdapterError):
        store.install(shipped)


@pytest.mark.parametrize("name", ["stark", "stark@v0", "stark@v01", "stark@1", "Stark@v1", ".staging", "stark@v1\n"])
def test_other_names_are_not_versions(name: str) -> None:
    assert parse_version_id(name) is None
    assert parse_version_id("iron-man2@v12") == ("iron-man2", 12)
