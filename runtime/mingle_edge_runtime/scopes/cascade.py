"""The router's stages: each looks only at the images that the one before is in doubt of."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mingle_edge_runtime.bundle.bundle import Bundle
from mingle_edge_runtime.bundle.index import Router, Stage
from mingle_edge_runtime.errors import BundleError
from mingle_edge_runtime.ort.session import EMBEDDINGS, Outputs, Session

Floats = NDArray[np.float32]
_SUM = 1e-3
"""how far from 1 the sum of a posterior may be"""


@dataclass(frozen=True)
class Finding:
    """What the last stage that an image needed says of it."""

    stage: Stage
    posterior: Floats
    """`[T]`"""
    losses: Floats
    """`[T + 1]`, what each expert and, last, the plain backbone is expected to lose"""
    confidence: float
    bound: float
    """least confidence that the stage settles an image with, as it was compared"""
    judged: bool
    """whether it is claimed and in doubt after the last stage, so that the judge decides"""
    plain: Floats | None
    """`[dim]`, the plain backbone's embedding where a stage needed it"""

    @property
    def confident(self) -> bool:
        """Return whether the confidence reaches its bound; NaN does not."""
        return self.confidence >= self.bound


class Cascade:
    """Runs the stages of one bundle, each opened when an image first needs it. Safe to use from several threads."""

    def __init__(
        self, bundle: Bundle, router: Router, providers: Sequence[str], threads: int | None, low_memory: bool = False
    ) -> None:
        """Check the graphs, and open none yet; arguments as in `open_scope`."""
        self._stages = router.stages
        self._graphs = [bundle.graph(stage.file) for stage in router.stages]
        self._one_by_one = router.one_by_one
        self._tasks = len(bundle.index.tasks)
        with np.errstate(over="ignore"):  # beyond float32 every image is in doubt, or none
            # The graphs' outputs are float32, and so must be what they are compared with.
            self._bounds = [(np.float32(stage.doubt), np.float32(stage.confidence_bound)) for stage in self._stages]
            self._unsure = np.float32(-np.inf if router.judge is None else router.judge.unsure)
        self._providers, self._threads, self._prepack = providers, threads, not low_memory
        self._sessions: dict[int, Session] = {}
        self._lock = threading.Lock()

    def sessions(self) -> list[Session]:
        """Open the stages that are not open yet, and return the sessions of all."""
        return [self._session(number) for number in range(len(self._stages))]

    def find(self, pixels: Floats, embed_plain: Callable[[Floats], Floats], mask: Floats | None = None) -> list[Finding]:
        """Return a finding for each image of `pixels [n, 3, S, S]`.

        embed_plain: the plain backbone, `[m, 3, S, S]` -> `[m, dim]`. mask: `[T]`, a one for each task that competes.

        Raises `BundleError` where a stage does not run, or computes no probabilities.
        """
        findings: dict[int, Finding] = {}
        left = np.arange(len(pixels))
        features: Floats | None = None
        for number, stage in enumerate(self._stages):
            if not len(left):
                break
            images = pixels if len(left) == len(pixels) else pixels[left]
            plain = embed_plain(images) if stage.name == "embedding" else None
            outputs = self._run(number, images if plain is None else plain, features, mask)
            posterior, losses, confidence = (outputs[name] for name in ("posterior", "losses", "confidence"))
            doubt, bound = self._bounds[number]
            claimed, sure = confidence >= bound, losses.min(axis=1) <= doubt  # [m]; NaN is neither
            last = number == len(self._stages) - 1
            further = claimed & ~(sure & (confidence >= self._unsure)) if last else ~(claimed & sure)
            for i in np.arange(len(left)) if last else np.flatnonzero(~further):
                found = stage, posterior[i], losses[i], float(confidence[i]), float(bound), bool(further[i])
                findings[int(left[i])] = Finding(*found, None if plain is None else plain[i])
            if not last:
                left, features = left[further], outputs["features"][further]
        return [findings[i] for i in range(len(pixels))]

    def run_all(self, pixels: Floats, embed_plain: Callable[[Floats], Floats]) -> Iterator[dict[str, NDArray[Any]]]:
        """Yield every stage's outputs for all of `pixels [n, 3, S, S]`, n at least 1, whether they are in doubt or not."""
        features: Floats | None = None
        for number, stage in enumerate(self._stages):
            outputs = self._run(number, embed_plain(pixels) if stage.name == "embedding" else pixels, features, None)
            yield outputs
            features = outputs.get("features")

    def _run(self, number: int, own: Floats, features: Floats | None, mask: Floats | None) -> dict[str, NDArray[Any]]:
        """Run a stage on its own input, images or embeddings, and the features of the stage before."""
        session = self._session(number)
        inputs = {EMBEDDINGS if self._stages[number].name == "embedding" else "pixel_values": own}
        if features is not None:
            inputs["previous_features"] = features
        if mask is not None:
            inputs["task_mask"] = mask
        outputs = session.run(inputs)
        posterior, losses = outputs["posterior"], outputs["losses"]
        sound = (posterior >= 0).all() and (np.abs(posterior.sum(axis=1) - 1) <= _SUM).all()  # so that NaN is wrong
        if not (sound and np.isfinite(losses).all()):
            raise BundleError(
                f"{session.path} computes probabilities of tasks that are negative, not finite, or do not sum to 1, or losses "
                "that are not finite: a weight is damaged; verify the bundle, or export it again"
            )
        return outputs

    def _session(self, number: int) -> Session:
        with self._lock:
            if number not in self._sessions:
                self._sessions[number] = self._open(number)
            return self._sessions[number]

    def _open(self, number: int) -> Session:
        outputs: Outputs = {"posterior": (self._tasks,), "losses": (self._tasks + 1,), "confidence": ()}
        if number < len(self._stages) - 1:
            outputs = {**outputs, "features": (-1,)}
        return Session(
            self._graphs[number],
            self._providers,
            self._threads,
            outputs=outputs,
            prepack=self._prepack,
            one_by_one=self._one_by_one,
            spin=False,  # the tower follows at once and needs the cores that these threads would spin on
        )
