"""The page of a comparison: alone, well-formed, equal to the results, safe with any name, whole where figures are missing."""

from __future__ import annotations

import math
import random
import re
from itertools import pairwise

import pytest
from comparison_results import KNOWN, SEVEN, TASKS, results
from hypothesis import given, settings
from hypothesis import strategies as st
from parsed_page import body, card, check_alone, check_phone, rows, words

from mingle_edge.comparison.page import page, write_page
from mingle_edge.comparison.ranking import leading, ordered
from mingle_edge.pages.labels import shorten

HOSTILE = '</td></svg></style><script>alert(1)</script><img src="x.test/a.png" onerror=alert(1)>{{ 7 * 7 }}&"\''
FEW = ("pretrained", "individual", "weight-averaging", "opcm", "image-top1", "image-posterior-weighted")


@pytest.fixture(scope="module")
def compared():
    """Results of twenty tasks and all methods."""
    return results()


@pytest.fixture(scope="module")
def text(compared, tmp_path_factory):
    """The file of their page."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_page(compared, path)
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def whole(text):
    """Its body."""
    return body(text)


def signed(value):
    return f"{value:+.1f}" if f"{value:.1f}" not in ("0.0", "-0.0") else "0.0"


def place(element):
    """Where an element of a drawing is moved to, in pixels."""
    x, y = re.fullmatch(r"translate\((.*),(.*)\)", element.get("transform")).groups()
    return float(x), float(y)


def marks(svg, kind):
    """The marks of a kind, as `mark-line`."""
    return [mark for group in svg.iter("g") if group.get("class", "").startswith(f"{kind} role-mark") for mark in group]


def outline(path):
    """The points of a path of straight lines."""
    return [tuple(map(float, point.split(","))) for point in re.findall(r"[ML]([^MLZ]+)", path.get("d"))]


def axis(svg, across):
    """Values of places along an axis, read off its ticks: a function of pixels."""
    labels = [group for group in svg.iter("g") if group.get("class") == "mark-text role-axis-label"]
    texts = [text for group in labels for text in group if (place(text)[0] < 0) != across]
    below = 0 if across else 3  # pixels from the middle of a text to its baseline
    ends = [
        (place(text)[not across] - below, float(text.text.replace("\u2212", "-").removesuffix(" x")))
        for text in texts
        if text.text
    ]
    (a, low), (b, high), *more = sorted(ends, key=lambda end: end[1])
    logarithmic = bool(more) and abs((more[0][0] - b) / (b - a) - (more[0][1] - high) / (high - low)) > 0.02
    scale, back = (math.log, math.exp) if logarithmic else (float, float)
    return lambda place: back(scale(low) + (place - a) / (b - a) * (scale(high) - scale(low)))


def test_the_page_needs_nothing_else_and_fits_a_phone(text, whole):
    check_alone(text)
    check_phone(whole)


def test_the_main_table_equals_the_results_with_the_best_method_of_a_column_bold(compared, whole):
    table = whole.find(".//table[@class='methods']")
    shown = rows(table)
    assert list(shown) == ordered(compared)
    assert (next(iter(shown)), next(reversed(shown))) == ("pretrained", "individual")
    for label, cells in shown.items():
        expected = []
        for protocol, names in (("P1", ("acc", "bwt", "fwt")), ("P2", ("acc", "bwt")), ("P3", ("acc", "bwt"))):
            figures = compared["accuracy"][label][protocol]
            for name in names:
                value = f"{figures[name]:.1f}" if name == "acc" else signed(figures[name])
                expected.append(f"{value} ± {figures[name + '_std']:.1f}")
        method = compared["methods"][label]
        tuning = method["tuning"]
        tuned = ", ".join(f"{key} {value:g}" for key, value in tuning["chosen"].items()) if tuning else ""
        assert cells[:7] == expected
        assert float(cells[7]) == pytest.approx(method["stored_bytes"] / 1e6, rel=1e-3)
        assert float(cells[8]) == pytest.approx(method["active_bytes"] / 1e6, rel=1e-3)
        assert cells[9:] == [f"{method['latency_ratio']:.2f} x", tuned]
    methods = [label for label in compared["methods"] if label not in ("pretrained", "individual")]
    for column, (protocol, name) in enumerate([("P1", "acc"), ("P1", "bwt"), ("P1", "fwt"), ("P2", "acc")], 1):
        best = max(methods, key=lambda label: compared["accuracy"][label][protocol][name])
        assert [words(row[0]) for row in table.iterfind("tbody/tr") if row[column].find(".//b") is not None] == [best]
    heads = [words(cell) for row in table.iterfind("thead/tr") for cell in row]
    assert heads[-10:] == ["ACC", "BWT", "FWT", "ACC", "BWT", "ACC", "BWT", "MB stored", "MB read", "PyTorch time"]


def test_the_words_say_the_distances(compared, whole):
    tiles = whole.findall(".//div[@class='tiles large']/div")
    for tile, protocol in zip(tiles, ("P1", "P2", "P3"), strict=True):
        acc = {label: compared["accuracy"][label][protocol]["acc"] for label in compared["accuracy"]}
        best = max((label for label in acc if label not in ("pretrained", "individual")), key=acc.get)
        single = max((label for label in list(KNOWN)[2:] if KNOWN[label][4] == 0), key=acc.get)
        text = words(tile)
        assert tile.find("b").text == best
        assert words(tile.find("strong")).startswith(f"{acc[best]:.1f}% ± ")
        side = "below" if acc[best] < acc["individual"] else "above"
        assert f"{abs(acc[best] - acc['individual']):.1f} points {side} individual" in text
        assert f"{acc[best] - acc['pretrained']:.1f} points above pretrained" in text
        assert f"{acc[best] - acc[single]:.1f} points above {single}, the best single model" in text
    lead = words(whole.find(".//p[@class='lead']"))
    assert lead.startswith("Of 14 methods on 20 tasks in 10 orders, image-posterior-weighted is the most accurate in P1")


@pytest.mark.parametrize(("title", "key"), [("Task by task", "by_task"), ("Corrupted images", "corrupted")])
def test_tables_of_tasks_and_corruptions_equal_the_results(compared, whole, title, key):
    tables = card(whole, title).findall(".//table")
    assert len(tables) == 3
    for table, protocol in zip(tables, ("P1", "P2", "P3"), strict=True):
        shown = rows(table)
        assert list(shown) == ordered(compared)
        for label, cells in shown.items():
            if key == "by_task":
                expected = [compared[key][label][protocol][name] for name in TASKS]
            else:
                corrupted = [compared[key][label][name][protocol]["acc"] for name in SEVEN]
                clean = compared["accuracy"][label][protocol]["acc"]
                expected = [clean, *corrupted, sum(corrupted) / len(corrupted)]
            assert cells == [f"{value:.1f}" for value in expected]


def tint(cell):
    """How strongly a cell is colored, 0 to 20; None for no value."""
    shade = re.search(r"tint-(\d+)", cell.get("class"))
    return int(shade.group(1)) if shade else None


def test_heat_maps_equal_the_results_and_color_by_value(compared, whole):
    names = list(TASKS)
    wanted = {
        "Accuracy matrix": {label: table["P1"] for label, table in compared["matrix"].items()},
        "Where a router sends images": compared["routes"],
        "Confusion between tasks": compared["confusion"],
    }
    for title, tables in wanted.items():
        figures = card(whole, title).findall(".//figure")
        assert sorted(figure.find("figcaption/b").text for figure in figures) == sorted(tables)
        order = compared["orders"][0] if title == "Accuracy matrix" else names
        strengths = []
        for figure in figures:
            lines = figure.findall(".//tbody/tr")
            assert [line[0].get("title") for line in lines] == order
            for i, (line, values) in enumerate(zip(lines, tables[figure.find("figcaption/b").text], strict=True)):
                for j, (cell, value) in enumerate(zip(line.iterfind("td"), values, strict=True)):
                    assert cell.get("title").endswith(f" {value:.1f}%")
                    assert (" own" in cell.get("class")) == (i == j)
                    strengths.append((value, tint(cell)))
        assert all(a[1] <= b[1] for a, b in pairwise(sorted(strengths)))
        assert max(strength for _, strength in strengths) >= 19


def test_measurements_missing_from_a_matrix_stay_empty():
    compared = results(tasks=TASKS[:4], labels=FEW, orders=2)
    for label in FEW:
        for t, row in enumerate(compared["matrix"][label]["P1"]):
            row[t + 1 :] = [None] * (3 - t)
    figure = card(body(page(compared)), "Accuracy matrix").find(".//figure")
    lines = [line.findall("td") for line in figure.iterfind(".//tbody/tr")]
    assert [[tint(cell) is not None for cell in line] for line in lines] == [[j <= t for j in range(4)] for t in range(4)]
    values = compared["matrix"][figure.find("figcaption/b").text]["P1"]
    assert [words(cell) for line in lines for cell in line if words(cell)] == [
        f"{value:.0f}" for row in values for value in row if value is not None
    ]


@pytest.mark.parametrize(
    ("title", "cost"),
    [
        ("Accuracy and forgetting", lambda compared, label: compared["accuracy"][label]["P1"]["bwt"]),
        ("Accuracy and storage", lambda compared, label: compared["methods"][label]["stored_bytes"] / 1e6),
        ("Accuracy and bytes read", lambda compared, label: compared["methods"][label]["active_bytes"] / 1e6),
        ("Accuracy and time in PyTorch", lambda compared, label: compared["methods"][label]["latency_ratio"]),
    ],
)
def test_points_lie_where_the_ticks_say(compared, whole, title, cost):
    plots = [part for part in card(whole, title) if part.tag == "div"]
    assert [plot.get("class") for plot in plots] == ["narrow", "wide"]
    for plot in plots:
        svg = plot.find("svg")
        x, y = axis(svg, across=True), axis(svg, across=False)
        points = {point.find("title").text.split(":")[0]: place(point) for point in marks(svg, "mark-symbol")}
        assert points.keys() == compared["methods"].keys()
        for label, (across, down) in points.items():
            assert x(across) == pytest.approx(cost(compared, label), rel=5e-3, abs=0.02)
            assert y(down) == pytest.approx(compared["accuracy"][label]["P1"]["acc"], abs=0.1)
        names = [text.text for text in marks(svg, "mark-text")]
        assert names == [shorten(label, 19 if plot.get("class") == "narrow" else 30) for label in compared["methods"]]


def test_what_a_task_takes_and_keeps_equals_the_results(compared, whole):
    stored = {label: method for label, method in compared["methods"].items() if method["bytes_per_task"]}
    acc = {label: compared["accuracy"][label]["P2"]["acc"] for label in stored}
    shown = rows(card(whole, "What a task takes and keeps").find(".//table"))
    assert list(shown) == sorted(stored, key=lambda label: -stored[label]["bytes_per_task"])
    assert next(iter(shown)) == "individual"
    for label, (size, share, accuracy, lost) in shown.items():
        own = stored[label]["bytes_per_task"]
        assert float(size) == pytest.approx(own / 1e6, rel=5e-3)
        assert float(share) == pytest.approx(100 * own / stored["individual"]["bytes_per_task"], rel=5e-3)
        assert accuracy == f"{acc[label]:.1f}"
        assert lost == f"{acc['individual'] - acc[label] + 0.0:.1f}"
    drawn = card(whole, "Accuracy kept and bytes of a task").findall("div/svg")
    assert len(drawn) == 2
    for svg in drawn:
        x, y = axis(svg, across=True), axis(svg, across=False)
        points = {point.find("title").text.split(":")[0]: point for point in marks(svg, "mark-symbol")}
        assert points.keys() == stored.keys()
        for label, point in points.items():
            across, down = place(point)
            assert x(across) == pytest.approx(stored[label]["bytes_per_task"] / 1e6, rel=5e-3)
            assert y(down) == pytest.approx(100 * acc[label] / acc["individual"], abs=0.1)
            own = label.startswith("image")
            assert point.get("fill") == f"var(--{'grey' if label == 'individual' else 'blue' if own else 'orange'})"


@pytest.mark.parametrize("missing", ["individual", "every method"])
def test_without_something_to_compare_what_a_task_takes_is_left_out(missing):
    compared = results(labels=FEW, tasks=TASKS[:3], orders=2)
    if missing == "individual":
        del compared["accuracy"]["individual"]
    else:
        for label in FEW[2:]:
            compared["methods"][label]["bytes_per_task"] = 0
    assert card(body(page(compared)), "What a task takes and keeps") is None


def test_sizes_that_differ_by_much_lie_on_a_logarithmic_axis(whole):
    svg = card(whole, "Accuracy and storage").find("div[@class='wide']/svg")
    ticks = {text.text: place(text)[0] for text in svg.iter("text") if text.get("text-anchor") == "middle"}
    assert ticks["1000"] - ticks["500"] == pytest.approx(ticks["2000"] - ticks["1000"], abs=0.02)


def test_times_lie_on_a_logarithmic_axis_with_a_label_at_1(whole):
    for svg in card(whole, "Accuracy and time in PyTorch").iter("svg"):
        ticks = {text.text: text for text in svg.iter("text") if (text.text or "").endswith(" x")}
        assert ticks["1 x"].get("font-weight") == "bold"
        one, more, two = (place(ticks[tick])[0] for tick in ("1 x", "1.5 x", "2 x"))
        assert (two - one) / (more - one) == pytest.approx(math.log(2) / math.log(1.5), rel=1e-3)


def test_times_say_that_they_are_of_pytorch_and_on_what(compared):
    for device, told in (("cpu", "PyTorch on the CPU"), ("cuda", "PyTorch on cuda"), (None, "PyTorch")):
        whole = body(page(compared | {"machine": {"device": device} if device else {}}))
        assert f"backbone's time for an image, in {told}." in words(whole.find(".//p[@class='lead']"))
        assert f"of one image in {told}, over the plain backbone's, which is 1" in words(card(whole, "All methods"))


def test_the_title_counts_the_methods_that_the_sentences_count():
    compared = results(labels=(*FEW, "ties"), tasks=TASKS[:3], orders=2)
    del compared["accuracy"]["ties"]
    whole = body(page(compared))
    assert words(whole.find(".//h1")) == "Comparison of 5 methods on 3 tasks"
    assert words(whole.find(".//p[@class='lead']")).startswith(
        "Of 5 methods (1 without a figure) on 3 tasks in 2 orders, image"
    )
    alone = body(page(results(labels=FEW[:2], tasks=TASKS[:3], orders=2)))
    assert words(alone.find(".//h1")) == "Comparison of the references on 3 tasks"


def test_curves_and_bands_lie_where_the_ticks_say(compared, whole):
    section = card(whole, "After each step")
    svg = section.find("div[@class='wide']/svg")
    y = axis(svg, across=False)
    lines = {line.get("stroke"): line for line in marks(svg, "mark-line")}
    bands = {band.get("fill"): band for band in marks(svg, "mark-area")}
    ends = {text.get("fill"): text.text for text in marks(svg, "mark-text")}
    for color, label in zip(("blue", "orange", "green", "purple"), leading(compared), strict=True):
        color, steps = f"var(--{color})", compared["steps"][label]["P1"]
        assert [y(down) for _, down in outline(lines[color])] == pytest.approx(steps["mean"], abs=0.1)
        edge = [y(down) for _, down in outline(bands[color])]
        upper = [min(m + s, 100) for m, s in zip(steps["mean"], steps["std"], strict=True)]
        lower = [m - s for m, s in zip(steps["mean"], steps["std"], strict=True)]
        assert sorted([edge[:20], edge[:19:-1]]) == [pytest.approx(lower, abs=0.1), pytest.approx(upper, abs=0.1)]
        assert ends[color] == label
    panels = section.findall("div[@class='panels']/figure")
    assert [panel.find("figcaption/b").text for panel in panels] == ordered(compared)
    assert all(len(marks(panel, "mark-line")) == 3 for panel in panels)


@pytest.mark.parametrize(("tasks", "ticks"), [(2, ["1", "2"]), (3, ["1", "2", "3"]), (20, ["5", "10", "15", "20"])])
def test_steps_are_counted_in_whole_tasks(tasks, ticks):
    compared = results(tasks=TASKS[:tasks], labels=FEW, orders=1)
    for svg in card(body(page(compared)), "After each step").iterfind("div/svg"):
        labels = [group for group in svg.iter("g") if group.get("class") == "mark-text role-axis-label"]
        assert [text.text for text in labels[0]] == ticks


def test_tuning_times_and_how_it_was_made_are_told(compared, whole):
    trials = [
        (label, f"{trial['acc']:.1f}", trial["parameters"] == method["tuning"]["chosen"])
        for label, method in compared["methods"].items()
        if method["tuning"]
        for trial in method["tuning"]["trials"]
    ]
    cells = [[words(cell) for cell in row] for row in card(whole, "Tuning").iterfind(".//tbody/tr")]
    assert sorted((label, acc, taken == "chosen") for label, _, acc, taken in cells) == sorted(trials)
    dots = marks(card(whole, "Tuning").find("div[@class='narrow']"), "mark-symbol")
    filled = {dot.find("title").text.rsplit(": ")[-1] for dot in dots if dot.get("fill") == "var(--purple)"}
    assert filled == {f"{acc}%" for _, acc, taken in trials if taken}
    assert len(dots) == len(trials)
    for label, (first, second, last, ratio, all_of_them) in rows(card(whole, "Time to add a task").find(".//table")).items():
        seconds = compared["methods"][label]["seconds_per_task"]
        told = [float(value) for value in (first, second, last, all_of_them)]
        assert told == pytest.approx([seconds[0], seconds[1], seconds[-1], sum(seconds)], rel=5e-3)
        assert ratio == f"{seconds[-1] / seconds[1]:.2f}"
    made = words(card(whole, "How it was made"))
    for told in (*compared["versions"].values(), compared["machine"]["cpu"], "42", ", ".join(compared["orders"][9]), "5210.3"):
        assert told in made


def renamed(value, names):
    """The same with other names wherever one of `names` stands."""
    if isinstance(value, dict):
        return {names.get(key, key): renamed(item, names) for key, item in value.items()}
    if isinstance(value, list):
        return [renamed(item, names) for item in value]
    return names.get(value, value) if isinstance(value, str) else value


def test_names_that_are_markup_stay_text():
    names = dict.fromkeys(("opcm", "share", "jpeg", "cpu", "AMD EPYC 7B13", "torch", "2.14.0", "suite20.toml"), HOSTILE)
    hostile = renamed(results(labels=FEW, tasks=TASKS[:5], orders=2), names | {TASKS[0]: HOSTILE + "2"})
    hostile["methods"][HOSTILE]["summary"] = HOSTILE
    hostile["failed"] = [{"method": HOSTILE, "order": hostile["orders"][0], "corruption": HOSTILE, "error": HOSTILE}]
    parsed = check_alone(page(hostile))
    assert parsed.text.count(HOSTILE) >= 30
    named = [name for _, given in parsed.elements for name, value in given.items() if HOSTILE in (value or "")]
    assert set(named) == {"title", "aria-label"}


@pytest.mark.parametrize(
    "given",
    [
        {"tasks": TASKS[:1], "orders": 1},
        {"tasks": TASKS[:2], "orders": 1, "labels": ("pretrained", "individual", "ties")},
        {"labels": ("pretrained", "individual"), "tasks": TASKS[:3]},
        {"protocols": ("P3",), "tasks": TASKS[:3], "labels": FEW},
        {"corruptions": (), "tuned": False, "tasks": TASKS[:8], "labels": FEW[:4]},
    ],
)
def test_a_page_leaves_out_what_there_is_none_of(given):
    compared = results(**given)
    whole = body(page(compared))
    several, methods = len(compared["tasks"]) > 1, [label for label in compared["methods"] if label not in FEW[:2]]
    assert (card(whole, "Tuning") is not None) == any(method["tuning"] for method in compared["methods"].values())
    assert (card(whole, "Corrupted images") is not None) == bool(compared["corrupted"])
    assert (card(whole, "Where a router sends images") is not None) == bool(compared["routes"])
    assert (card(whole, "After each step") is not None) == several
    assert (card(whole, "Accuracy and forgetting") is not None) == several
    assert card(whole, "Failed cells") is None
    assert ("No method finished" in words(whole.find(".//p[@class='lead']"))) == (not methods)
    assert ("±" in words(whole.find(".//table[@class='methods']"))) == (len(compared["orders"]) > 1)


def test_failures_are_told_and_a_method_of_which_nothing_finished_is_still_named():
    compared = results(labels=(*FEW, "ties"), tasks=TASKS[:3], orders=2)
    for key in ("accuracy", "steps", "matrix", "by_task", "confusion", "corrupted"):
        del compared[key]["opcm"]
    for key in ("stored_bytes", "active_bytes", "bytes_per_task", "latency_ratio", "seconds_per_task"):
        del compared["methods"]["opcm"][key]
    first, second = compared["orders"]
    failures = [("opcm", first, None), ("opcm", second, None), ("ties", second, None), ("ties", [*TASKS], "jpeg")]
    names = ("method", "order", "corruption", "error")
    compared["failed"] = [dict(zip(names, (*failure, "RuntimeError: <x>"), strict=True)) for failure in failures]
    whole = body(page(compared))
    methods = rows(whole.find(".//table[@class='methods']"))
    assert methods["opcm failed"][:-1] == ["-"] * 10
    assert "ties 1 of 2 orders" in methods
    assert "4 cells failed" in words(whole.find(".//p[@class='warning']"))
    assert [[words(cell) for cell in row] for row in card(whole, "Failed cells").iterfind(".//tbody/tr")] == [
        ["opcm", "order 1", "clean images", "RuntimeError: <x>"],
        ["opcm", "order 2", "clean images", "RuntimeError: <x>"],
        ["ties", "order 2", "clean images", "RuntimeError: <x>"],
        ["ties", "tuning", "jpeg", "RuntimeError: <x>"],
    ]


def weird(draw, value):
    """The same shape with figures replaced by what results can hold in their place."""
    if isinstance(value, dict):
        return {key: weird(draw, item) for key, item in value.items()}
    if isinstance(value, list):
        return [weird(draw, item) for item in value]
    return draw.choice([value, value, None, math.nan, 0.0, 100.0, -value]) if isinstance(value, float) else value


@settings(max_examples=12)
@given(st.integers(0, 10**6), st.sampled_from([1, 2, 4]), st.sampled_from([1, 2]), st.booleans())
def test_whatever_was_measured_the_page_is_well_formed(seed, tasks, orders, tuned):
    draw = random.Random(seed)
    labels = ("pretrained", "individual", *draw.sample(list(KNOWN)[2:], draw.randint(0, 5)))
    compared = results(tasks=TASKS[:tasks], labels=labels, orders=orders, tuned=tuned, corruptions=SEVEN[:2], seed=seed)
    for key in ("methods", "accuracy", "steps", "matrix", "by_task", "routes", "confusion", "corrupted"):
        compared[key] = weird(draw, compared[key])
        for label in list(compared[key]):
            if key != "methods" and draw.random() < 0.15:
                del compared[key][label]
    text = page(compared)
    assert rows(body(text).find(".//table[@class='methods']"))
    assert not re.search(r'"[^"]*(NaN|Infinity|undefined|null)[^"]*"', text)
