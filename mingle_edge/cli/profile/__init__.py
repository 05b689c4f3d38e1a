"""`mingle-edge profile`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from mingle_edge.cli import shared_options
from mingle_edge.cli.byte_size import byte_size
from mingle_edge.cli.figures_files import write_and_show
from mingle_edge.cli.interruption import exit_code
from mingle_edge.cli.path_kind import PathKind, check_kinds
from mingle_edge.cli.progress_bar import ProgressBar
from mingle_edge.files.output_path import check_output_file, write_output

if TYPE_CHECKING:
    from mingle_edge_runtime.profile import ProfileReport

_FILE = click.Path(dir_okay=False, writable=True, path_type=Path)


def _baselines(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str, ...]:
    """Callback of an option: the names in `dense,reload`; `profile` knows which there are."""
    return tuple(name.strip() for name in value.split(",")) if value else ()


def _sweep_axes(ctx: click.Context, param: click.Parameter, value: Iterable[str]) -> dict[str, list[int | str | None]]:
    """Callback of a repeatable option: values by axis of `threads=1,2,batch,budget=all,64MB`.

    A part with "=" or the name of an axis begins an axis; any other is one more value of the axis before.
    """
    from mingle_edge_runtime.profile import AXES

    axes: dict[str, list[int | str | None]] = {}
    for part in (part.strip() for text in value for part in text.split(",")):
        axis, equals, first = part.partition("=")
        if axis in AXES:
            if axis in axes:
                raise click.BadParameter(f"{axis} is given twice: write it once, with all its values")
            axes[axis] = [_swept_value(ctx, param, axis, first)] if equals else []
        elif axes and (values := axes[next(reversed(axes))]):
            values.append(_swept_value(ctx, param, next(reversed(axes)), part))
        else:
            raise click.BadParameter(f"{part!r} is no axis; choose from {', '.join(AXES)}, with values as in threads=1,2")
    return axes


def _swept_value(ctx: click.Context, param: click.Parameter, axis: str, text: str) -> int | str | None:
    if not text:
        raise click.BadParameter(f"{axis}= has an empty value; write it like {axis}=1,2, or {axis} alone")
    if axis == "precision":
        return text
    if axis == "budget":
        return None if text == "all" else byte_size(ctx, param, text)
    if not text.isdecimal():
        raise click.BadParameter(f"{axis}={text!r} is no whole number; write it like {axis}=1,2")
    return int(text)


def _percent(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """Callback of an option: a number of at least 0, with the sign or without."""
    if value is None:
        return None
    try:
        percent = float(value.removesuffix("%"))
    except ValueError:
        percent = -1.0
    if not 0 <= percent < float("inf"):
        raise click.BadParameter(f"{value!r} is no percentage; write it like 5 or 2.5%")
    return percent


@click.command(short_help="Measure a bundle on this machine.")
@click.argument("bundle", required=False, type=click.Path(path_type=Path))
@click.option("--images", type=click.Path(path_type=Path), help="Folder of images.  [default: the bundle's own]")
@click.option("--runs", default=50, show_default=True, type=click.IntRange(min=1), help="Timed runs of each kind.")
@click.option("--against", metavar="LIST", callback=_baselines, help="Baselines to run interleaved, see above.")
@click.option(
    "--switch-every", metavar="N", default=1, show_default=True, type=click.IntRange(min=1), help="Requests per named task."
)
@click.option("--operators", is_flag=True, help="Trace which operators and layers take the time.")
@click.option("--sweep", metavar="AXES", multiple=True, callback=_sweep_axes, help="Settings to change one by one, see above.")
@shared_options.expert_budget
@shared_options.threads
@shared_options.provider
@shared_options.low_memory
@click.option("--cool-down", metavar="SECONDS", default=0.0, type=click.FloatRange(min=0), help="Rest before each phase.")
@click.option("--json", "json_path", type=_FILE, help="Also write all figures to this file.")
@click.option("--html", "html_path", type=_FILE, help="Also write a page with charts to this file.")
@click.option(
    "--page",
    "page_of",
    metavar="REPORT",
    type=click.Path(path_type=Path),
    help="Make the page of a file of --json, beside it or at --html; no BUNDLE.",
)
@click.option(
    "--compare", nargs=2, metavar="A B", type=click.Path(path_type=Path), help="Compare two files of --json; no BUNDLE."
)
@click.option(
    "--fail-on-regression",
    "regression",
    metavar="[PERCENT]",
    callback=_percent,
    is_flag=False,
    flag_value="5",
    help="With --compare: exit code 5 where a figure of the bundle got worse beyond the noise and by more than PERCENT "
    "(5 where it is left out).",
)
@click.pass_context
def command(
    ctx: click.Context,
    /,
    bundle: Path | None,
    images: Path | None,
    json_path: Path | None,
    html_path: Path | None,
    page_of: Path | None,
    compare: tuple[Path, Path] | None,
    regression: float | None,
    **settings: Any,
) -> None:
    """Time to open, latency, throughput, memory and expert traffic of BUNDLE.

    "named" is with the task told, each in turn; "routed" finds the route.

    \b
    --against takes a list of what one would do otherwise:
      dense            the tower without experts
      all-experts      every expert computed on every image
      separate-models  a dense model per task, all in memory
      reload           a dense model, opened anew when the task changes
    --sweep takes a list of axes, with values or without:
      threads=1,2  batch=1,8  top-k=1,2  budget=all,64MB
      precision=BUNDLE,...   other exports of the same model

    Ctrl-C shows and writes what was measured so far.
    """
    if compare is not None:
        _check_alone(ctx, "compare", "regression")
        check_kinds("profile --compare", [(path, PathKind.PROFILE) for path in compare])
        _compare(*compare, regression)
        return
    if regression is not None:
        raise click.UsageError("--fail-on-regression needs two reports: add --compare BEFORE.json AFTER.json")
    if page_of is not None:
        _check_alone(ctx, "page_of", "html_path")
        check_kinds("profile --page", [(page_of, PathKind.PROFILE)])
        _make_page(page_of, html_path)
        return
    if bundle is None:
        raise click.UsageError("name a BUNDLE to measure, or two reports of it with --compare A.json B.json")
    check_kinds("profile", [(bundle, PathKind.BUNDLE)])
    if html_path is not None:
        import mingle_edge.cli.profile.page  # noqa: F401  # that it can be made is found out before anything is measured
    from mingle_edge_runtime.profile import ProfileInterrupted, profile

    check_output_file(json_path, html_path)
    check_output_file(html_path)
    pictures = None
    if images is not None:
        from mingle_edge.data.image_folder import list_images

        pictures = list_images(images)
    try:
        with ProgressBar() as progress:
            report = profile(bundle, pictures, progress=progress, **settings)
    except ProfileInterrupted as interrupted:
        _show(interrupted.report, json_path, html_path)
        ctx.exit(exit_code(interrupted))
    _show(report, json_path, html_path)


def _show(report: ProfileReport, json_path: Path | None, html_path: Path | None) -> None:
    """Write the files that were asked for, and print the report."""
    from mingle_edge.cli.profile.terminal import profile_lines

    write_and_show(report, profile_lines(report), json_path, html_path, lambda: _page(report))


def _page(report: ProfileReport) -> str:
    from mingle_edge.cli.profile.page import page

    return page(report)


def _compare(before: Path, after: Path, regression: float | None) -> None:
    from mingle_edge.cli.profile.terminal import comparison_lines
    from mingle_edge_runtime.profile import ProfileReport, compare

    comparison = compare(ProfileReport.read(before), ProfileReport.read(after))
    click.echo("\n".join(comparison_lines(comparison)))
    if regression is not None:
        comparison.check(regression)
        click.echo(f"no figure got worse beyond the noise and by more than {regression:g}%")


def _make_page(path: Path, html_path: Path | None) -> None:
    """Write the page of the report at `path`, beside it unless another place is given."""
    from mingle_edge_runtime.profile import ProfileReport

    report = ProfileReport.read(path)
    html_path = html_path or path.with_suffix(".html")
    if html_path.resolve() == path.resolve():
        raise click.UsageError(f"the page would overwrite the report {path}: name another file with --html")
    check_output_file(html_path)
    write_output(html_path, _page(report))
    click.echo(f"page: {html_path}")


def _check_alone(ctx: click.Context, name: str, *others: str) -> None:
    """Refuse all options beside those that read reports, which measure nothing."""
    options = {parameter.name: parameter.opts[0] for parameter in ctx.command.params} | {"bundle": "BUNDLE"}
    given = [name for name in ctx.params if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    if wrong := [options[option] for option in given if option not in (name, *others)]:
        what = "two reports" if name == "compare" else "a report"
        raise click.UsageError(f"{options[name]} reads {what} and measures nothing: leave out {', '.join(wrong)}")
