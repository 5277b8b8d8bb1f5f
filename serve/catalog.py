"""Which names the gateway admits, and what the engine calls them."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

from personas.adapters import AdapterStore, parse_version_id, version_id
from personas.bases import Base, base_name, find_base
from personas.errors import AdapterError, PersonaError
from personas.loader import SETTINGS_FILE, find_persona, load_personas
from personas.registry import Registry
from personas.schema import Persona, is_name
from serve.errors import AdapterMismatch, ModelNotFound
from serve.settings import Settings


@dataclass(frozen=True)
class Target:
    """Who answers: a persona (None for the bare base) and the engine's name for base or adapter."""

    persona: Persona | None
    engine_model: str
    version: int | None = None


class Catalog:
    """Names admitted at this gateway: the base, the personas on it, and their registered versions."""

    def __init__(self, settings: Settings, personas_root: Path, store: AdapterStore, registry: Registry) -> None:
        self.root = personas_root
        self.store = store
        self.registry = registry
        self.base_spec = settings.base
        self.base_name = settings.engine_model or base_name(settings.base)
        self.own_engine = not settings.engine_url
        self._home = settings.home
        self._max_rank = settings.max_lora_rank
        self._read: dict[str, tuple[int, Persona]] = {}
        self._verified: set[tuple[str, int]] = set()

    def persona(self, name: str) -> Persona:
        """A persona of this base by name; its file is read again when it has changed.

        Raises:
            ModelNotFound: no such persona, or it is faulty, or it belongs to another base.
        """
        if not is_name(name):
            raise ModelNotFound(f"The model '{name[:80]}' does not exist", param="model")
        try:
            changed = (self.root / name / SETTINGS_FILE).stat().st_mtime_ns
            known = self._read.get(name)
            if known is None or known[0] != changed:
                known = self._read[name] = (changed, find_persona(name, self.root).persona)
        except (OSError, PersonaError):
            raise ModelNotFound(f"The model '{name}' does not exist", param="model") from None
        if known[1].base != self.base_spec:
            raise ModelNotFound(
                f"'{name}' needs the base {known[1].base}; this engine has {self.base_spec}", param="model"
            )
        return known[1]

    def names(self) -> list[str]:
        """Every admitted name: personas, their versions, the base."""
        found: list[str] = []
        for name, folder in load_personas(self.root).items():
            if folder.persona.base == self.base_spec:
                found += [name, *(version_id(name, v) for v in self.registry.versions(name))]
        return [*found, self.base_name]

    async def resolve(self, name: str) -> Target:
        """What the engine is to be asked for.

        Raises:
            ModelNotFound: not an admitted name.
            AdapterMismatch: the version does not fit the base that is served.
        """
        if name == self.base_name:
            return Target(None, self.base_name)
        asked = parse_version_id(name)
        persona = self.persona(asked[0] if asked else name)
        version = asked[1] if asked else self.registry.live(name)
        if version is None or not self.own_engine:
            return Target(persona, self.base_name)
        if not self.registry.has(persona.name, version):
            raise ModelNotFound(f"The model '{name}' does not exist", param="model")
        await self._verify(persona.name, version)
        return Target(persona, version_id(persona.name, version), version)

    async def _verify(self, persona: str, version: int) -> None:
        """Check a version against the base, once in the life of this process (versions never change)."""
        if (persona, version) in self._verified:
            return
        base: Base | None = find_base(self.base_spec, self._home)
        if base is None:
            return  # the engine is not ready either, and says so
        try:
            manifest = await asyncio.to_thread(self.store.verify, persona, version, base)
        except AdapterError as error:
            raise AdapterMismatch(f"{error.message} (run: {error.hint})", param="model") from error
        if manifest.rank > self._max_rank:
            raise AdapterMismatch(
                f"{manifest.id} has rank {manifest.rank}, and the engine takes {self._max_rank} "
                f"(run: GAMYEON_MAX_LORA_RANK={manifest.rank} serve up)",
                param="model",
            )
        self._verified.add((persona, version))
