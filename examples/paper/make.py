"""Writes the task files of this folder: the paper's task groups by published names of checkpoints and data sets.

Run it after a change here: python examples/paper/make.py
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent
BACKBONES = {"ViT-B-32": "clip-vit-base-patch32", "ViT-B-16": "clip-vit-base-patch16", "ViT-L-14": "clip-vit-large-patch14"}
UNPUBLISHED = ("aircraft", "caltech101")
"""Tasks whose fine-tuned models are on no hub; they are looked for in `checkpoints/` beside the task file."""

_PLAIN = ("a photo of a {}.", "a photo of the {}.")
_NUMBER = ('a photo of the number: "{}".',)
_VIEWS = ("satellite imagery", "aerial imagery", "satellite photo", "aerial photo", "satellite view", "aerial view")
_LOOKS = ("", "blurry ", "black and white ", "low contrast ", "high contrast ", "bad ", "good ")
_CIFAR = tuple(
    template
    for article in ("a", "the")
    for template in (
        *(f"a {look}photo of {article} {{}}." for look in _LOOKS),
        f"a photo of {article} small {{}}.",
        f"a photo of {article} big {{}}.",
    )
)
_RENDITIONS = (
    *("a photo of {}", "a painting of {}", "{} plastic", "a sculpture of {}", "a sketch of {}", "a tattoo of {}", "{} toy"),
    *("a rendition of {}", "{} embroidered", "{} cartoon", "{} in a video game", "{} plushie", "{} origami", "art of {}"),
    *("graffiti of {}", "a drawing of {}", "a doodle of {}"),
)


@dataclass(frozen=True)
class Task:
    """One data set. Splits are patterns of parquet files; `tune` is the share to tune on, of `validation` or of `train`."""

    name: str
    data: str  # repository and folder on the hub, to which the splits are appended
    templates: tuple[str, ...]
    train: str = "train-*.parquet"
    test: str = "test-*.parquet"
    validation: str | None = None
    tune: float = 0.1
    columns: tuple[tuple[str, str], ...] = ()
    test_data: str | None = None  # where the test split is elsewhere


def _renditions() -> tuple[str, ...]:
    """The prompts for Caltech101, once with each article."""
    prompts = []
    for article in ("a", "the"):
        for rendition in _RENDITIONS:
            kind = rendition.removeprefix("{} ")
            if rendition.startswith("{}") and not kind.startswith("in "):
                prompts.append(f"{article} {kind} {{}}.")
            else:
                prompts.append(rendition.replace("{}", f"{article} {{}}") + ".")
    return tuple(prompts)


TASKS = (
    Task("sun397", "tanganke/sun397/data", _PLAIN),
    Task(
        "stanford-cars",
        "tanganke/stanford_cars/data",
        (
            *_PLAIN,
            "a photo of my {}.",
            "i love my {}!",
            *(f"a photo of my {state} {{}}." for state in ("dirty", "clean", "new", "old")),
        ),
    ),
    Task(
        "resisc45",
        "tanganke/resisc45/data",
        tuple(f"{view} of {article}{{}}." for article in ("", "a ", "the ") for view in _VIEWS),
    ),
    Task("eurosat", "tanganke/eurosat/**", tuple(f"a centered satellite photo of {a}{{}}." for a in ("", "a ", "the "))),
    Task("svhn", "ufldl-stanford/svhn/cropped_digits", _NUMBER, tune=0.03),
    Task(
        "gtsrb",
        "tanganke/gtsrb/**",
        tuple(f'a {look} photo of a "{{}}" traffic sign.' for look in ("zoomed in", "centered", "close up")),
        tune=0.05,
    ),
    Task("mnist", "ylecun/mnist/mnist", _NUMBER, tune=0.03),
    Task(
        "dtd",
        "tanganke/dtd/**",
        tuple(f"a photo of {a} {{}} {kind}." for a in ("a", "the") for kind in ("texture", "pattern", "thing", "object")),
        tune=0.2,
    ),
    Task(
        "oxford_flowers102",
        "dpdl-benchmark/oxford_flowers102/**",
        ("a photo of a {}, a type of flower.",),
        validation="validation-*.parquet",
        tune=1.0,
    ),
    Task(
        "pcam",
        "1aurent/PatchCamelyon/data",
        ("this is a photo of {}",),
        train="train-00000-of-00013.parquet",  # ten seeds need no more
        validation="valid-*.parquet",
        tune=0.06,
    ),
    Task(
        "fer2013",
        "clip-benchmark/wds_fer2013@refs/convert/parquet/**",
        (
            "a photo of a {} looking face.",
            "a photo of a face showing the emotion: {}.",
            "a photo of a face looking {}.",
            "a face that looks {}.",
            "they look {}.",
            "look at how {} they are.",
        ),
        train="train/*.parquet",
        test="test/*.parquet",
        tune=0.07,
        columns=(("image", "jpg"), ("label", "cls")),
    ),
    Task("oxford-iiit-pet", "timm/oxford-iiit-pet/data", ("a photo of a {}, a type of pet.",), tune=0.2),
    Task("stl10", "tanganke/stl10/data", _PLAIN, tune=0.2),
    Task("cifar100", "tanganke/cifar100/**", _CIFAR, tune=0.04),
    Task("cifar10", "tanganke/cifar10/**", _CIFAR, tune=0.04),
    Task("food101", "ethz/food101/data", ("a photo of {}, a type of food.",), test="validation-*.parquet", tune=0.02),
    Task("fashion_mnist", "zalando-datasets/fashion_mnist/fashion_mnist", _PLAIN, tune=0.03),
    Task("emnist_letters", "tanganke/emnist_letters/emnist-letters", ('a photo of the digit character: "{}".',), tune=0.02),
    Task("kmnist", "tanganke/kmnist/kmnist", ("a photo of the character {}.",), tune=0.03),
    Task(
        "rendered-sst2",
        "nateraw/rendered-sst2@refs/convert/parquet/**",
        ("a {} review of a movie.",),
        train="train/*.parquet",
        test="test/*.parquet",
        validation="validation/*.parquet",
        tune=1.0,
    ),
    Task(
        "aircraft",
        "Multimodal-Fatima/FGVC_Aircraft_train/**",
        ("a photo of a {}, a type of aircraft.", "a photo of the {}, a type of aircraft."),
        tune=0.2,
        test_data="Multimodal-Fatima/FGVC_Aircraft_test/**",
    ),
    Task("caltech101", "zihuanqiu/Caltech101/**", _renditions(), tune=0.2),
)
BY_NAME = {task.name: task for task in TASKS}
_TALL20 = tuple(task.name for task in TASKS[:20])
_MTIL11 = ("aircraft", "caltech101", "cifar100", "dtd", "eurosat", "oxford_flowers102", "food101", "mnist", "oxford-iiit-pet")
GROUPS = {"TA8": _TALL20[:8], "TALL14": _TALL20[:14], "TALL20": _TALL20, "MTIL11": (*_MTIL11, "stanford-cars", "sun397")}
SEEDS_PER_CLASS = 5


def task_files() -> dict[str, str]:
    """File name -> content, of every task file."""
    files = {f"{group}-{model}.toml": (group, model) for group in ("TA8", "TALL14", "TALL20") for model in BACKBONES}
    files["MTIL11-ViT-B-16.toml"] = ("MTIL11", "ViT-B-16")
    return {file: _task_file(group, model) for file, (group, model) in files.items()}


def _task_file(group: str, model: str) -> str:
    backbone = BACKBONES[model]
    lines = [f"# The {len(GROUPS[group])} tasks of {group} for CLIP {model}. Written by make.py; see README.md.", ""]
    lines += ["[backbone]", f'model = "hf://openai/{backbone}"']
    for name in GROUPS[group]:
        published = f"hf://tanganke/{backbone}_{name}"
        weights = f"checkpoints/{backbone}_{name}" if name in UNPUBLISHED else published
        lines += ["", "[[task]]", f'name = "{name}"', f'weights = "{weights}"', *_images(BY_NAME[name])]
        lines += [f'classes = "classes/{name}.txt"', "templates = ["]
        lines += [f"  {json.dumps(template)}," for template in BY_NAME[name].templates]
        lines += ["]"]
    return "\n".join(lines) + "\n"


def _images(task: Task) -> list[str]:
    border = round(1 - task.tune, 4)
    if task.validation is None:
        seeds, tune = _source(task, task.train, (0.0, border)), _source(task, task.train, (border, 1.0))
    else:
        seeds, tune = _source(task, task.train), _source(task, task.validation, (0.0, task.tune))
    test = _source(task, task.test, data=task.test_data)
    return [f"seeds = {seeds}", f"seeds_per_class = {SEEDS_PER_CLASS}", f"tune = {tune}", f"test = {test}"]


def _source(task: Task, split: str, share: tuple[float, float] = (0.0, 1.0), data: str | None = None) -> str:
    """A string where that says all, else a table."""
    files = f'"hf://datasets/{data or task.data}/{split}"'
    more = [f'{name} = "{column}"' for name, column in task.columns]
    more += [f"share = {list(share)}"] if share != (0.0, 1.0) else []
    return f"{{ {', '.join([f'files = {files}', *more])} }}" if more else files


if __name__ == "__main__":
    for file, content in task_files().items():
        (FOLDER / file).write_text(content, encoding="utf-8")
