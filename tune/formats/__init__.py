"""Formats of instruction data: one module each, found by being here, recognised from a file's first records."""

from importlib import import_module
from pkgutil import iter_modules

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
