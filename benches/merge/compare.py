"""Compares `lora-kernels merge --device cpu` with the same merge written in NumPy (in_numpy.py).

make.py makes a model and adapters. Both programs merge each adapter in turn, each in a process of
its own, and their times alternate. It needs NumPy, and twice the model's size on the disk.

    cargo build --release -p lora-kernels-cli
    python benches/merge/compare.py target/release/lora-kernels FOLDER
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent


def measured(command, out):
    """Seconds, seconds of the processors, and the most MB in memory, of a process that makes
    `out`, which is removed before it."""
    shutil.rmtree(out, ignore_errors=True)
    begin = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - begin
    if status != 0:
        sys.exit(f"{command} ended with status {os.waitstatus_to_exitcode(status)}")
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1000


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", help="the lora-kernels to measure")
    parser.add_argument("folder", type=Path, help="where the model and the adapters are made")
    parser.add_argument("--ranks", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layers", type=int, default=22)
    parser.add_argument("--vocabulary", type=int, default=38000)
    parser.add_argument("--shards", type=int, default=4)
    given = parser.parse_args()
    sizes = map(str, [given.layers, given.vocabulary, given.shards, *given.ranks])
    subprocess.run([sys.executable, HERE / "make.py", given.folder, *sizes], check=True)
    base, out = given.folder / "base", given.folder / "out"
    size = sum(path.stat().st_size for path in base.iterdir())
    print(f"{size / 1e9:.2f} GB, {os.cpu_count()} processors")
    for rank in given.ranks:
        adapter = given.folder / f"rank-{rank}"
        commands = {
            "lora-kernels": [given.program, "merge", base, adapter, "-o", out, "--device", "cpu"],
            "NumPy": [sys.executable, HERE / "in_numpy.py", base, adapter, out],
        }
        runs = {name: [] for name in commands}
        for _ in range(given.rounds):
            for name, command in commands.items():
                runs[name].append(measured(command, out))
        shutil.rmtree(out)
        for name, results in runs.items():
            seconds, processors, memory = zip(*results)
            print(
                f"rank {rank}, {name}: {', '.join(f'{time:.1f}' for time in seconds)} s; least "
                f"{min(seconds):.1f} s, of processors {min(processors):.1f} s; at most "
                f"{max(memory):.0f} MB"
            )
        ours, numpys = (min(seconds for seconds, _, _ in results) for results in runs.values())
        print(f"rank {rank}: {ours / numpys:.2f} of NumPy's time", flush=True)


if __name__ == "__main__":
    main()
