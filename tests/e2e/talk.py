"""The other end of ``clients/talker.py``: a governed workload that a test tells what to do, and hears."""

from __future__ import annotations

import itertools
import json
import subprocess
import threading
import time
from typing import Any, Self

from tests.stage import Service
from tests.stage.world import DATABASE_NAME

Answer = dict[str, Any]


def environment(service: Service, **more: str) -> list[str]:
    """Return ``env`` words that give a client its database: its own address, its own trust, and a wrong password."""
    settings = {
        "PGHOST": DATABASE_NAME,
        "PGDATABASE": "crm",
        "PGUSER": "crm_app",
        "PGPASSWORD": "wrong",
        "PGSSLMODE": "verify-full",
        "PGSSLROOTCERT": str(service.world.folder / "company-ca.pem"),
        **more,
    }
    return ["env", *(f"{key}={value}" for key, value in settings.items())]


class Talk:
    """One governed talker. ``with Talk(service) as talk: talk.sql("select 1")``."""

    def __init__(self, service: Service, *, launcher: str = "", workload: str = "support-bot", **environ: str) -> None:
        """Nothing runs before ``__enter__``. ``launcher`` is the unix user who launches it (default: root)."""
        prefix = ["setpriv", f"--reuid={launcher}", f"--regid={launcher}", "--init-groups", "--"] if launcher else []
        python = str(service.world.repository / ".venv/bin/python")
        script = str(service.world.repository / "tests/e2e/clients/talker.py")
        run = [*service.command, "run", "--workload", workload, "--no-tty", "--"]
        self._command = [*prefix, *run, *environment(service, **environ), python, script]
        self._environment = service.environment
        self._ids = itertools.count(1)
        self._heard: list[Answer] = []
        self._news = threading.Condition()
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        """Launch it and wait until it listens."""
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=self._environment, cwd="/"
        )  # fmt: skip
        threading.Thread(target=self._listen, daemon=True).start()
        self.wait(lambda answer: "ready" in answer)
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self.kill()

    def kill(self) -> None:
        """End the launcher, and with it the workload."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except OSError:
                    continue

    def tell(self, do: str, *, on: str = "a", **more: object) -> int:
        """Say what to do and return at once; the number is for ``answer``."""
        assert self._process is not None
        assert self._process.stdin is not None
        number = next(self._ids)
        self._process.stdin.write(json.dumps({"on": on, "do": do, "id": number, **more}) + "\n")
        self._process.stdin.flush()
        return number

    def answer(self, number: int, seconds: float = 30.0) -> Answer:
        """Return the answer to what was told under ``number``."""
        return self.wait(lambda answer: answer.get("id") == number, seconds)

    def connect(self, on: str = "a", dsn: str = "") -> Answer:
        """Open a connection."""
        return self.answer(self.tell("connect", on=on, dsn=dsn))

    def sql(self, statement: str, *values: object, on: str = "a", seconds: float = 30.0) -> Answer:
        """Run a statement to its end."""
        return self.answer(self.tell("sql", on=on, sql=statement, values=values), seconds)

    def notices(self) -> list[str]:
        """Return the notices heard so far."""
        with self._news:
            return [str(answer["notice"]) for answer in self._heard if "notice" in answer]

    def wait(self, wanted: Any, seconds: float = 30.0) -> Answer:
        """Return the first answer for which ``wanted`` is true.

        Raises:
            AssertionError: none came in time; the message holds what was heard.
        """
        until = time.monotonic() + seconds
        with self._news:
            while True:
                for answer in self._heard:
                    if wanted(answer):
                        return answer
                left = until - time.monotonic()
                if left <= 0 or not self._news.wait(left):
                    raise AssertionError(f"no answer within {seconds:.0f} s; heard {self._heard[-5:]}")

    def _listen(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        try:
            for line in self._process.stdout:
                try:
                    answer = json.loads(line)
                except ValueError:
                    answer = {"said": line.rstrip()}
                with self._news:
                    self._heard.append(answer)
                    self._news.notify_all()
        except ValueError:
            return
