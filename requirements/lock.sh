#!/usr/bin/env bash
# Renews both locks. The same versions on both devices, apart from torch's build and what CUDA needs.
set -euo pipefail
cd "$(dirname "$0")/.."
compile=(.venv/bin/uv pip compile pyproject.toml --extra dev --override requirements/overrides.txt
  --generate-hashes --no-header --python-version 3.11 --quiet --upgrade)
from=()
[ -n "${PIP_FIND_LINKS:-}" ] || from=(--torch-backend cpu)
UV_FIND_LINKS=${PIP_FIND_LINKS:-} "${compile[@]}" "${from[@]}" --extra cpu --output-file requirements/cpu.lock
"${compile[@]}" --extra gpu --python-platform x86_64-manylinux_2_28 --output-file requirements/gpu.lock
