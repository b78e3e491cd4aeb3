"""``proxyd``: the unprivileged process on the data path. Run by ``hostagent up`` or a unit as user ``hostagent``."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import click

from hostagent import __version__
from hostagent.daemon import logs
from hostagent.daemon.hardening import give_back, harden
from hostagent.daemon.notify import Notifier
from hostagent.model.errors import HostagentError

log = logging.getLogger("hostagent.proxyd")


@click.command("proxyd")
@click.option("--config", "config_path", default=None, help="Configuration file.")
@click.option("--credentials-fd", type=int, default=None, help="Sealed memory file with the targets' secrets.")
@click.option("--ready-fd", type=int, default=None, help="Gets one line when connections can be served.")
@click.option("--drain", "drain_s", type=float, default=0.0, help="Seconds that sessions have to finish when told to stop.")
def main(config_path: str | None, credentials_fd: int | None, ready_fd: int | None, drain_s: float) -> None:
    """Serve the governed workloads' connections. Not meant to be started by hand: see `hostagent up`."""
    logs.configure("proxyd")
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    if os.geteuid() == 0:
        raise click.ClickException("proxyd must not run as root: start it through `hostagent up` or its unit")
    harden()
    give_back()
    try:
        _runner()(_serve(config_path, credentials_fd, ready_fd, drain_s))
    except HostagentError as error:
        log.critical("%s", error)
        sys.exit(1)


def _runner() -> Callable[[Coroutine[Any, Any, None]], None]:
    try:
        import uvloop
    except ImportError:
        return asyncio.run
    run: Callable[[Coroutine[Any, Any, None]], None] = uvloop.run
    return run


async def _serve(config_path: str | None, credentials_fd: int | None, ready_fd: int | None, drain_s: float) -> None:
    from hostagent.daemon.configfile import load_started, load_targets
    from hostagent.daemon.credentials import gather, unseal
    from hostagent.daemon.delivery import delivered
    from hostagent.daemon.proxyparts import Proxy

    config = load_started(config_path)
    targets = load_targets(config)
    passed = delivered() if credentials_fd is None else credentials_fd
    secrets = unseal(passed) if passed is not None else gather(targets, config)
    notifier = Notifier()
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    proxy = Proxy(config, targets, secrets, config_path)

    def ready() -> None:
        # What was built until here stays for good: the garbage collector need not walk it again and again, and sessions
        # make few cycles. Without this a full collection stops every session for tens of milliseconds.
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20, 100)
        log.info("version %s, ready", __version__)
        if ready_fd is not None:
            os.write(ready_fd, b"ready\n")
        notifier.ready()

    watched = asyncio.create_task(_alive(notifier)) if notifier.interval_s else None
    try:
        await proxy.run(stopping, ready, drain_s=drain_s)
    finally:
        if watched is not None:
            watched.cancel()


async def _alive(notifier: Notifier) -> None:
    """Speak to the watchdog from the loop that serves the sessions."""
    while True:
        notifier.alive()
        await asyncio.sleep(notifier.interval_s)


if __name__ == "__main__":
    main()

