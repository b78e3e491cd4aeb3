"""``make test``: every test, in lanes that run beside each other. Exit 1 unless all pass.

Most tests wait: for a time-out that must come, for evidence to be published, for a proof's end. Each lane is a pytest of its own in
namespaces, cgroups and folders of its own, so lanes see nothing of each other. A folder that no lane names is in the last one.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = Path(__file__).parent
NAMED = {"boundary": ("bypass", "lifecycle"), "kernel": ("netns", "enforcer")}
_NOTHING_CHOSEN = 5
"""pytest's exit status when no test was selected: what ``-k`` names may be in one lane alone."""

_FAILURE = ("FAILED ", "ERROR ")
"""How pytest's short summary begins the line of a failed test. They are said again at the very end, below the lanes that came later."""


@dataclass
class Lane:
    """One pytest. ``status`` is its exit status once it has ended, after ``seconds``; ``failures`` are the lines that name what failed."""

    name: str
    folders: tuple[str, ...]
    status: int = -1
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)

    def run(self, words: list[str]) -> None:
        """Run it to its end, each line of what it prints marked with the lane's name."""
        began = time.monotonic()
        command = [sys.executable, "-u", "-m", "pytest", *words, *(str(FOLDER / each) for each in self.folders)]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                sys.stdout.write(f"{self.name:<8} | {line}")
                sys.stdout.flush()
                if line.startswith(_FAILURE):
                    self.failures.append(line)
        self.status, self.seconds = process.returncode, time.monotonic() - began


def lanes() -> list[Lane]:
    """Return the lanes; together they have every folder of tests once."""
    named = {folder for folders in NAMED.values() for folder in folders}
    rest = sorted(each.name for each in FOLDER.iterdir() if each.is_dir() and each.name not in named and any(each.rglob("test_*.py")))
    return [*(Lane(name, folders) for name, folders in NAMED.items()), Lane("rest", tuple(rest))]


def main(words: list[str]) -> int:
    """Run all lanes (``words`` are for each pytest) and say what came of them."""
    running = lanes()
    threads = [threading.Thread(target=lane.run, args=(words,)) for lane in running]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    fine = [lane.status == 0 or (bool(words) and lane.status == _NOTHING_CHOSEN) for lane in running]
    for lane, good in zip(running, fine, strict=True):
        print(f"{lane.name:<8} | {'passed' if good else f'FAILED ({lane.status})'} in {lane.seconds:.0f} s: {' '.join(lane.folders)}")
    for lane in running:
        sys.stdout.writelines(f"{lane.name:<8} | {line}" for line in lane.failures)
    return 0 if all(fine) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
