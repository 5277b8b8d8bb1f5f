"""Brings the adapters that come with the personas into the store, once."""

from personas.adapters import AdapterStore, Manifest
from personas.loader import PersonaFolder
from personas.registry import Registry

WHO = "gamyeon"


def install_shipped(folders: dict[str, PersonaFolder], store: AdapterStore, registry: Registry) -> list[Manifest]:
    """Copy shipped adapters that the store does not have yet, and register what a kill left unregistered.

    A newly shipped adapter goes live only where nothing is, or where an older shipped one is: never over a version
    that the user tuned.

    Returns:
        The manifests of the versions made now.
    """
    registry.reconcile(store)
    made: list[Manifest] = []
    for name, folder in folders.items():
        if not folder.shipped_adapter.is_dir():
            continue
        if manifest := store.install(folder.shipped_adapter):
            registry.add(name, manifest.version)
            made.append(manifest)
        # looked up, not taken from `manifest`: a kill may have come between an earlier install and its promotion
        version = store.find(folder.shipped_adapter)
        history = registry.history(name)
        if version and version != registry.live(name) and (not history or history[-1].who == WHO):
            registry.promote(name, version, WHO, "shipped")
    return made
