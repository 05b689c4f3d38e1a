"""A bundle in service: its life from opening to closing, and what of it is in memory meanwhile."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from os import PathLike
from threading import Lock
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mingle_edge_runtime.bundle.bundle import Bundle
from mingle_edge_runtime.bundle.head import Head
from mingle_edge_runtime.bundle.head_file import HeadFile
from mingle_edge_runtime.errors import EdgeError, HeadError, UnknownTaskError
from mingle_edge_runtime.experts.budget import ExpertStats
from mingle_edge_runtime.experts.byte_size import budget_bytes
from mingle_edge_runtime.images.preprocess import preprocess
from mingle_edge_runtime.ort.session import Placement
from mingle_edge_runtime.scopes.notebook import html_table
from mingle_edge_runtime.scopes.route import Route
from mingle_edge_runtime.scopes.scope import RoutedScope, Scope

_NAMED = 8  # tasks in a line; a bundle may have hundreds


Embedded: TypeAlias = tuple[NDArray[np.float32], list[Route]]
"""Embeddings `[n, dim]` and n routes."""


class LabeledHead(NamedTuple):
    """A head that labels are asked of, of a task or loaded."""

    labels: tuple[str, ...]
    head: Head


class ServedBundle:
    """What `EdgeModel` can do without an image."""

    def __init__(self, bundle: Bundle, scope: Scope, heads: Mapping[str, Head], providers: Sequence[str]) -> None:
        """Use `EdgeModel.open`."""
        self._bundle = bundle
        self._heads = {task.name: LabeledHead(task.labels, heads[task.name]) for task in bundle.index.tasks}
        self._scope: Scope | None = scope
        self._providers = tuple(providers)
        self._loading = Lock()
        self._process = os.getpid()

    @property
    def bundle(self) -> Bundle:
        """Return the opened folder and its index."""
        return self._bundle

    @property
    def scope(self) -> Scope:
        """Return what runs underneath, on `pixel_values [n, 3, S, S]`.

        Raises `EdgeError` where the model is closed, or was opened before this process was forked.
        """
        if os.getpid() != self._process:
            raise EdgeError(
                f"the bundle {self._bundle.root} was opened before this process was forked, and its threads were left behind: "
                "open the model in each process, after the fork"
            )
        if self._scope is None:
            raise EdgeError(f"the bundle {self._bundle.root} is closed: open it again")
        return self._scope

    @property
    def tasks(self) -> tuple[str, ...]:
        """Return the names of the bundle's tasks."""
        return self._bundle.index.task_names

    @property
    def heads(self) -> tuple[str, ...]:
        """Return the names that `classify` takes as `head`: the tasks', and those that `load_head` added."""
        return tuple(self._heads)

    def labels(self, head: str) -> tuple[str, ...]:
        """Return the labels of a task, or of a head that was loaded, in the order of its rows. Raises `UnknownTaskError`."""
        return self._heads[self._check_head(head)].labels

    def load_head(self, path: str | PathLike[str]) -> str:
        """Read a head that `mingle-edge head` wrote, use it from the next call on, and return its name.

        Where it has the name of a task, that task's labels are those of the file from now on, also where the labels of all
        tasks compete. Any other name adds labels that are asked for with `classify(..., head=name)`. Calls that are running
        or were submitted keep the labels they began with. The bundle on disk stays as it is.

        Raises `HeadError` where the file cannot be read or does not belong to this bundle; all heads then stay as they were.
        """
        self.scope  # noqa: B018 - raises where the model is closed
        file = HeadFile.read(path)
        file.check_belongs(self._bundle.index, path)
        name = file.index.name
        with self._loading:
            if same := next((head for head in self._heads if head.lower() == name.lower() and head != name), None):
                raise HeadError(f"{path} is called {name!r}, and there is a head {same!r}: names must differ in more than case")
            self._heads = self._heads | {name: LabeledHead(file.index.labels, file.head)}  # running calls keep the old one
        return name

    def prepare_routing(self) -> None:
        """Load the router now, not with the first image that needs a route.

        Where every task is named it is never loaded, and its weights take no memory. A bundle of the layer scope has none.
        """
        if routed := self.scope.routed:
            routed.prepare_routing()

    def warm_up(self, tasks: str | Iterable[str] = ()) -> None:
        """Do now what the first image would wait for: load the router, and run it and the tower once, on a picture of noise.

        tasks: whose experts to make resident as well, as `prefetch` does. In the image scope no other is read; in the layer
        scope the run reads those of the first of these tasks, or with none those it routes to, and counts in `stats`.

        Raises `UnknownTaskError`, `ExpertError`, `BundleError`, `DeviceMemoryError`.
        """
        scope, names, spec = self.scope, self._check_tasks(tasks), self._bundle.index.preprocess
        scope.experts.prefetch(names)
        noise = np.random.default_rng(0).integers(0, 256, (spec.image_size, spec.image_size, 3), np.uint8)
        pixels = preprocess(noise, spec)
        if scope.routed is None:
            scope.embed(pixels, names[0] if names else None)
        else:
            for _ in scope.routed.run_stages(pixels):
                pass
            scope.routed.embed_routed(pixels, [Route((), ())])

    def prefetch(self, tasks: str | Iterable[str]) -> None:
        """Make these tasks' experts resident before they are needed, in order, as far as the budget allows.

        Raises `UnknownTaskError`, `ExpertError`.
        """
        self.scope.experts.prefetch(self._check_tasks(tasks))

    def pin(self, tasks: str | Iterable[str]) -> None:
        """Keep exactly these tasks' experts resident; none unpins all.

        Raises `BudgetError` where they leave no room for a run of another task, `UnknownTaskError`, `ExpertError`.
        """
        self.scope.experts.pin(self._check_tasks(tasks))

    def set_expert_budget(self, budget: int | str | None) -> None:
        """Keep at most `budget` bytes of experts resident from now on; None keeps all that are used.

        budget: bytes, or a text like "64MB"; see `open`.

        Experts that are neither pinned nor in use are given up at once, those in use when their runs end. No result changes.

        Raises `BudgetError` naming the least that is possible where one run, beside what is pinned, needs more; the old
        budget then stays.
        """
        self.scope.experts.set_budget(budget_bytes(budget))

    def stats(self) -> ExpertStats:
        """Return the counters of the experts since the bundle was opened."""
        return self.scope.experts.stats()

    def placement(self) -> dict[str, Placement]:
        """Return the number of nodes that each execution provider runs, by graph, provider and operator.

        A provider leaves what it cannot run to the next one, in the end to the CPU; `stats().notes` say so, too. Nothing is
        known of a graph where ONNX Runtime is older than 1.24.
        """
        return self.scope.placement()

    def close(self) -> None:
        """Give back the memory once running calls have ended. Everything but another `close` raises `EdgeError` from now on."""
        self._scope = None
        self._bundle = self._bundle.without_files()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        """Return what is served, and how, in a line."""
        return f"{type(self).__name__}({', '.join(f'{name}: {value}' for name, value in self._summary())})"

    def _repr_html_(self) -> str:
        """Return a table of what is served, and how, for a notebook."""
        return html_table(type(self).__name__, self._summary())

    def _summary(self) -> list[tuple[str, str]]:
        """Return what there is to say of this model, also when it is closed or forked: then no lock may be waited for."""
        index, scope = self._bundle.index, self._scope
        state = "closed" if scope is None else "opened before a fork" if os.getpid() != self._process else ""
        more = f" and {len(self.tasks) - _NAMED} more" if len(self.tasks) > _NAMED else ""
        budget = None if scope is None or state else scope.experts.stats().budget
        return [
            ("bundle", str(self._bundle.root)),
            ("scope", index.scope),
            ("tasks", ", ".join(self.tasks[:_NAMED]) + more),
            ("precision", f"{index.precision}, experts {index.expert_precision}"),
            ("expert budget", state or ("none" if budget is None else f"{budget} bytes")),
            ("provider", ", ".join(self._providers)),
        ]

    def _check_tasks(self, tasks: Any) -> list[str]:
        """Return the names of one task or several. Raises `UnknownTaskError`, also for what is no name."""
        names = list(tasks) if isinstance(tasks, Iterable) and not isinstance(tasks, (str, bytes)) else [tasks]
        for name in names:
            if not isinstance(name, str) or name not in self.tasks:
                raise UnknownTaskError(f"task {name!r} is not in the bundle; it has {', '.join(self.tasks)}")
        return names

    def _embedding(self, task: str | None, group: str | None) -> Callable[[NDArray[np.float32]], Embedded]:
        """Return what turns images into embeddings and routes; arguments as in `classify`, the group checked."""
        scope = self.scope
        if group is None:
            return partial(scope.embed, task=task)
        if task is not None:
            raise EdgeError(
                f"task {task!r} and group {group!r} are both given: a named task needs no route, leave out the group"
            )
        return partial(self._grouped(group).embed, group=group)

    def _grouped(self, group: Any) -> RoutedScope:
        """Return the scope that lets one group's tasks compete. Raises `UnknownTaskError`, also for what is no name."""
        router, routed = self._bundle.index.router, self.scope.routed
        groups = (router.groups if router else None) or {}
        if routed is None or not isinstance(group, str) or group not in groups:
            known = f"it has {', '.join(groups)}" if groups else "its tasks have no groups"
            raise UnknownTaskError(f"group {group!r} is not in the bundle; {known}")
        return routed

    def _check_head(self, head: Any) -> str:
        """Return the name of a head. Raises `UnknownTaskError`, also for what is no name."""
        if not isinstance(head, str) or head not in self._heads:
            loaded = [name for name in self._heads if name not in self.tasks]
            more = f", and {', '.join(loaded)} were loaded" if loaded else ""
            raise UnknownTaskError(f"head {head!r} is not in the bundle; it has {', '.join(self.tasks)}{more}")
        return head
