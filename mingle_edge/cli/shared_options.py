"""Options that several commands have: how a bundle is opened, and where PyTorch computes."""

from __future__ import annotations

import click

from mingle_edge.cli.byte_size import byte_size

expert_budget = click.option(
    "--expert-budget", metavar="SIZE", callback=byte_size, help="Experts to keep in memory, like 64MB.  [default: all]"
)
threads = click.option("--threads", type=click.IntRange(min=1), help="Threads of ONNX Runtime.  [default: one per core]")
provider = click.option("--provider", "providers", help="Execution provider of ONNX Runtime.  [default: cpu]")
low_memory = click.option("--low-memory", is_flag=True, help="Leave the weights in the files, mapped: less memory, slower.")
check_hashes = click.option(
    "--check-hashes", is_flag=True, help="Compare the hash of each file of the bundle when it is first used."
)
load_head = click.option(
    "--load-head", "heads", metavar="FILE", multiple=True, help="Written by `mingle-edge head`; repeatable."
)
device = click.option("--device", default="auto", show_default=True, type=click.Choice(["auto", "cpu", "cuda"]))
