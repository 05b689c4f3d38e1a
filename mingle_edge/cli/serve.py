"""`mingle-edge serve`."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import click

from mingle_edge.cli import shared_options
from mingle_edge.cli.byte_size import byte_size
from mingle_edge.cli.path_kind import PathKind, check_kinds


def _request_size(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """Callback of an option: a number of bytes that a request can have."""
    size = byte_size(ctx, param, value)
    if size == 0:
        raise click.BadParameter("0 bytes hold no request; give a size such as 16MiB")
    return size


@click.command(short_help="Serve a bundle over HTTP.")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0: any that is free.")
@click.option("--task", help="Task of requests that name none.  [default: the router finds it]")
@click.option("--name", help="Name of the model in the protocol.  [default: the folder's]")
@shared_options.load_head
@click.option("--allow-host", "allowed_hosts", metavar="NAME", multiple=True, help="Name that clients may use; repeatable.")
@click.option("--queue", metavar="N", type=click.IntRange(min=1), help="Requests accepted at a time.  [default: 32]")
@click.option("--max-request", metavar="SIZE", callback=_request_size, help="Of a request's body.  [default: 16MiB]")
@shared_options.expert_budget
@shared_options.threads
@shared_options.provider
@click.option("--verify", is_flag=True, help="First check hashes and outputs, as `mingle-edge verify` does.")
@shared_options.check_hashes
def command(bundle: Path, host: str, queue: int | None, max_request: int | None, **options: Any) -> None:
    """Serve BUNDLE over HTTP by the Open Inference Protocol v2.

    A page to try it is at /, metrics for Prometheus at /metrics. Ctrl-C or
    SIGTERM ends it once the requests that were accepted are answered.

    There is no TLS and no authentication: it listens on this machine alone
    unless --host says otherwise. docs/serve.md has the protocol and the limits.
    """
    from mingle_edge_server import Limits, serve

    check_kinds("serve", [(bundle, PathKind.BUNDLE)])
    sizes = {name: value for name, value in (("queue", queue), ("request_bytes", max_request)) if value is not None}
    with shown_failures():
        answered = serve(
            bundle,
            host=host,
            limits=Limits(**sizes),
            started=lambda url: tell_started(url, host),
            **options,
        )
    click.echo(f"stopped; requests answered: {answered}")


def tell_started(url: str, host: str) -> None:
    """Print where the server listens, and what protects it."""
    click.echo(f"serving on {url}  (Ctrl-C to stop)")
    if not is_loopback(host):
        click.echo(
            "warning: whoever reaches this port can use the model and read its metrics; there is no TLS and no authentication, "
            "so put a proxy that has both in front",
            err=True,
        )


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can connect."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class LineFormatter(logging.Formatter):
    """Writes a record as the command line writes its own messages; with its traceback, where it has one."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return f"{record.levelname.lower()}: {super().format(record)}"


@contextmanager
def shown_failures() -> Iterator[None]:
    """Print within the block what the server and the model log, on standard error; of uvicorn, what is a mistake of ours."""
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter())
    levels = {"mingle_edge_server": logging.WARNING, "mingle_edge_runtime": logging.WARNING, "uvicorn": logging.ERROR}
    loggers = {logging.getLogger(name): level for name, level in levels.items()}
    before = {logger: logger.level for logger in loggers}
    for logger, level in loggers.items():
        logger.setLevel(level)
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger, level in before.items():
            logger.removeHandler(handler)
            logger.setLevel(level)
