"""A bundle's model card: what is known of it from its index and from reports, and what only a person can say."""

from __future__ import annotations

from os import PathLike

from mingle_edge.card import sections
from mingle_edge.card.evaluation import read_evaluation
from mingle_edge.card.front_matter import front_matter
from mingle_edge.core.errors import FileError
from mingle_edge_runtime.bundle.bundle import Bundle
from mingle_edge_runtime.profile.report import ProfileReport


def model_card(
    bundle: str | PathLike[str],
    evaluation: str | PathLike[str] | None = None,
    profile: str | PathLike[str] | None = None,
) -> str:
    """Return a model card of a bundle, Markdown with a head in YAML, as the Hugging Face hub shows it.

    Only the bundle's index is read. What a person must fill in, licenses first, is marked FILL IN and never guessed.

    Args:
        bundle: its folder.
        evaluation: a file of `mingle-edge evaluate --json`, of the merged model that the bundle was exported from.
        profile: a file of `mingle-edge profile --json`, of this bundle.

    Raises:
        mingle_edge_runtime.BundleError: the bundle is missing or damaged.
        FileError: the evaluation cannot be read, or is of other tasks; the profile is of another bundle.
        mingle_edge_runtime.EdgeError: the profile cannot be read.
    """
    opened = Bundle.open(bundle)
    index, name = opened.index, opened.root.resolve().name
    evaluated = [] if evaluation is None else read_evaluation(evaluation, index.task_names)
    report = None if profile is None else ProfileReport.read(profile)
    if profile is not None and report is not None and report.bundle.index_sha256 != opened.digest:
        raise FileError(
            profile, f"is of another bundle, {report.bundle.name}: profile {opened.root}, which may have been exported again"
        )
    return (
        "\n\n".join(
            [
                front_matter(name, index, evaluated),
                sections.title(name, index),
                sections.to_fill_in(),
                sections.use(name, index),
                sections.tasks(index),
                sections.accuracy(index, evaluated),
                sections.cost(index, report),
                sections.limits(index, evaluated),
                sections.sources(index, opened.digest),
            ]
        ).rstrip()
        + "\n"
    )
