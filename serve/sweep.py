"""Takes versions that nobody uses out of the engine's list: not live, no canary, not asked for by name lately.

vLLM drops the name at once (a running reply holds its adapter and finishes) and lets the weights go from its
least-recently-used cache. A version that is asked for again is found again by the resolver.
"""

import asyncio
import json
import logging
import sqlite3
import time

from personas.adapters import parse_version_id
from serve.catalog import Catalog
from serve.errors import ApiError
from serve.relay import read_whole
from serve.upstream import Upstream

log = logging.getLogger(__name__)
_EVERY_SECONDS = 10.0
IDLE_SECONDS = 60.0


def unused(loaded: list[str], catalog: Catalog, now: float) -> list[str]:
    """Which of the engine's adapters are neither live nor a canary and were not asked for lately."""
    found = []
    for name in loaded:
        if (parsed := parse_version_id(name)) is None:
            continue
        route = catalog.registry.route(parsed[0])
        if parsed[1] not in (route.live, route.canary) and now - catalog.used.get(name, 0.0) > IDLE_SECONDS:
            found.append(name)
    return found


async def sweep(upstream: Upstream, catalog: Catalog) -> None:
    """Take out what is unused, now and then, until cancelled; an engine elsewhere is left alone."""
    while catalog.own_engine:
        await asyncio.sleep(_EVERY_SECONDS)
        if len(catalog.used) < 2 or not upstream.engine.ready:
            continue
        try:
            loaded = [card["id"] for card in json.loads(await upstream.get("/v1/models"))["data"]]
            for name in unused(loaded, catalog, time.monotonic()):
                body = json.dumps({"lora_name": name}).encode()
                async with upstream.asking("/v1/unload_lora_adapter", body) as wire:
                    await read_whole(wire)
                    log.info("%s taken out of the engine: %d", name, wire.status)
                catalog.used.pop(name, None)
        except (ApiError, KeyError, ValueError, sqlite3.Error) as error:
            log.warning("could not look for unused versions: %s", error)
