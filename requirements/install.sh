#!/usr/bin/env bash
# Makes .venv from the hashed lock for this machine: cpu, or gpu where nvidia-smi sees one. Nothing is done twice.
set -euo pipefail
cd "$(dirname "$0")/.."

device=cpu
if command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q GPU; then device=gpu; fi
lock=requirements/$device.lock
stamp=.venv/.installed-$(cat "$lock" pyproject.toml requirements/install.sh | sha256sum | cut -c1-16)
[ -e "$stamp" ] && exit 0

python=${PYTHON:-$(command -v python3.11 || command -v python3 || true)}
[ -n "$python" ] || { echo "Python 3.11 이상이 필요합니다 / Python 3.11 or newer is needed" >&2; exit 1; }
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  { echo "$python: Python 3.11 이상이 필요합니다 / too old, 3.11 or newer is needed (PYTHON=…)" >&2; exit 1; }

step() { echo "… $1"; began=$(date +%s); shift; "$@"; echo "✓ $(($(date +%s) - began))s"; }

uv=.venv/bin/uv
make_venv() {
  rm -rf .venv
  "$python" -m venv .venv
  .venv/bin/python -m pip install --quiet --disable-pip-version-check uv==0.13.8
  # The lock's CPU build of torch is for 3.11: another Python fetches that one.
  if ! .venv/bin/python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))'; then
    mv .venv .venv-bootstrap
    .venv-bootstrap/bin/python -m uv venv --quiet --seed --python 3.11 .venv
    .venv-bootstrap/bin/python -m uv pip install --quiet --python .venv/bin/python uv==0.13.8
    rm -rf .venv-bootstrap
  fi
}
# The CPU build of torch: from the folder that pip is told of, or from PyTorch's own index.
install_lock() {
  local from=()
  if [ "$device" = cpu ] && [ -z "${PIP_FIND_LINKS:-}" ]; then from=(--torch-backend cpu); fi
  UV_FIND_LINKS=${PIP_FIND_LINKS:-} "$uv" pip install --no-deps --require-hashes "${from[@]}" -r "$lock"
}

step "가상 환경 / virtual environment" make_venv
step "라이브러리 ($device) / libraries" install_lock
step "gamyeon" "$uv" pip install --quiet --no-deps -e .
touch "$stamp"
