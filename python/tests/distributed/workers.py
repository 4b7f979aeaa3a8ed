"""Two processes that run cases together, over gloo on the loopback device.

They are started once for all tests: importing torch takes longer than a case.
"""

from __future__ import annotations

import importlib
import multiprocessing
import multiprocessing.connection
import os
import socket
import sys
import traceback
from pathlib import Path
from typing import Any

WORLD = 2
#: Seconds for one case.
PATIENCE = 300


class Workers:
    """Both processes, each with a pipe that takes the names of cases."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        port = _free_port()
        self._pipes: list[multiprocessing.connection.Connection] = []
        self._processes = []
        for rank in range(WORLD):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(rank, port, theirs), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def run(self, case: str, *arguments: Any) -> list[Any]:
        """What a function of `cases`, or `module:function`, returns in each process, by rank."""
        for pipe in self._pipes:
            pipe.send((case, arguments))
        results = []
        for rank, pipe in enumerate(self._pipes):
            if not pipe.poll(PATIENCE):
                raise TimeoutError(f"rank {rank} has not ended {case} after {PATIENCE} s")
            is_right, result = pipe.recv()
            results.append((is_right, result))
        for rank, (is_right, result) in enumerate(results):
            if not is_right:
                raise AssertionError(f"rank {rank} in {case}:\n{result}")
        return [result for _, result in results]

    def close(self) -> None:
        """Ends both."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(10)
            if process.is_alive():
                process.kill()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def _serve(rank: int, port: int, pipe: multiprocessing.connection.Connection) -> None:
    os.environ.update(
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(WORLD),
        GLOO_SOCKET_IFNAME="lo",
    )
    here = Path(__file__).resolve().parent
    sys.path[:0] = [str(here), str(here.parent)]
    import emulated
    import torch
    import torch.distributed

    emulated.install()

    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=WORLD)
    while True:
        try:
            name, arguments = pipe.recv()
        except EOFError:
            break
        try:
            module, _, function = f"cases:{name}".rpartition(":")
            cases = importlib.import_module(module.removeprefix("cases:"))
            pipe.send((True, getattr(cases, function)(rank, *arguments)))
        except Exception:
            pipe.send((False, traceback.format_exc()))
    torch.distributed.destroy_process_group()
