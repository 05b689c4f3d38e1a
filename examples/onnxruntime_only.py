"""A bundle with plain ONNX Runtime and no package of this project: from an image to its label.

    python examples/onnxruntime_only.py BUNDLE IMAGE [IMAGE ...]

Needs onnxruntime >= 1.20, numpy and Pillow. For bundles of the image scope with one expert a route, not in int4, and images
prepared as open_clip does; `mingle_edge_runtime` serves all others, and checks what it reads (docs/onnxruntime.md).
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
from PIL import Image, ImageOps


def open_bundle(folder: Path) -> Callable[[Path], tuple[str, str, float, str]]:
    """Return a function from an image to its label, the label's task, its probability, and the task whose expert ran."""
    index = json.loads((folder / "bundle.json").read_text())
    check(index)
    spec, side, tasks = index["preprocess"], index["preprocess"]["image_size"], index["tasks"]
    names = [(label, task["name"]) for task in tasks for label in task["labels"]]
    heads = [task["logit_scale"] * np.load(folder / task["head"]) for task in tasks]
    biases = [np.load(folder / task["bias"]) if task.get("bias") else 0 for task in tasks]
    ort.set_default_logger_severity(3)  # it warns of every input that has a default
    tower, *routers = (
        ort.InferenceSession(folder / file, providers=["CPUExecutionProvider"])
        for file in (index["tower"], *(stage["file"] for stage in index["router"]["stages"]))
    )

    judge = index["router"].get("judge") if len(tasks) > 1 else None

    def embed(pixels: dict[str, np.ndarray], task: int | None = None) -> np.ndarray:
        """Return the embedding under the expert of a task by its number, or of the plain backbone."""
        options, adapter = ort.RunOptions(), ort.LoraAdapter()
        if task is not None:
            adapter.Load(str(folder / tasks[task]["expert"]))  # mapped, not read; keep it for the next image of this task
            options.add_active_adapter(adapter)
        return tower.run(["image_embeds"], pixels, options)[0]

    def route(pixels: dict[str, np.ndarray]) -> tuple[np.ndarray, int | None]:
        """Return the posterior of the last stage that the image needs, and the task whose expert is to run, if one is."""
        given, names = dict(pixels), ["posterior", "losses", "confidence"]
        for number, (stage, router) in enumerate(zip(index["router"]["stages"], routers, strict=True), 1):
            if stage["name"] == "embedding":
                given["image_embeds"] = embed(pixels)
            last = number == len(routers)
            outputs = router.run(
                [*names, *([] if last else ["features"])], {item.name: given[item.name] for item in router.get_inputs()}
            )
            posterior, losses, confidence = (output[0] for output in outputs[:3])
            claimed, sure = confidence >= np.float32(stage["confidence_bound"]), losses.min() <= np.float32(stage["doubt"])
            if last or (claimed and sure):
                break
            given["previous_features"] = outputs[3]
        order = np.argsort(losses[:-1], kind="stable")  # the last is what the plain backbone is expected to lose
        if last and judge and claimed and not (sure and confidence >= np.float32(judge["unsure"])):
            return posterior, decide(pixels, posterior, confidence, order[:2])
        return posterior, int(order[0]) if claimed and losses[order[0]] <= losses[-1] else None

    def decide(pixels: dict[str, np.ndarray], posterior: np.ndarray, confidence: float, pair: np.ndarray) -> int | None:
        """Return the one of two tasks whose largest logit is more typical of it; None where it is not at all."""
        largest = np.array([(heads[task] @ embed(pixels, task)[0] + biases[task]).max() for task in pair])
        typical = (largest - np.array(judge["typical"])[pair]) / np.array(judge["deviation"])[pair]
        likely = np.log(np.maximum(posterior[pair].astype(np.float64), np.finfo(np.float64).tiny))
        won = (typical + judge["trust"] * likely).argmax()
        return int(pair[won]) if float(confidence) + min(typical[won], 1.0) >= judge["bound"] else None

    def classify(path: Path) -> tuple[str, str, float, str]:
        picture = ImageOps.exif_transpose(Image.open(path))  # noqa: TID251
        width, height = (side * length // min(picture.size) for length in picture.size)
        left, top = round((width - side) / 2), round((height - side) / 2)
        picture = picture.resize((width, height), Image.Resampling[spec["interpolation"].upper()])
        values = np.asarray(picture.crop((left, top, left + side, top + side)).convert("RGB"), np.float32) / 255
        pixels = {"pixel_values": ((values - np.float32(spec["mean"])) / np.float32(spec["std"])).transpose(2, 0, 1)[None]}

        posterior, task = route(pixels)
        (embedding,) = embed(pixels, task)
        routed = task is not None  # else no task claims the image
        logits = [head @ embedding + bias for head, bias in zip(heads, biases, strict=True)]
        competing = logits if routed else [np.concatenate(logits)]  # a softmax for each task, or one for all labels
        shares = posterior if routed else [1]
        powers = [np.exp(scores - scores.max()) for scores in competing]
        probabilities = np.concatenate([p * power / power.sum() for p, power in zip(shares, powers, strict=True)])
        likeliest = probabilities.argmax()
        return *names[likeliest], float(probabilities[likeliest]), tasks[task]["name"] if routed else "none, the plain backbone"

    return classify


def check(index: dict) -> None:
    """Exit for a bundle that takes more than is written here."""
    spec = index["preprocess"]
    plain = spec["resize"] == "shortest_edge" and spec["rgb"] == "after_crop" and spec["crop_offset"] == "half_to_even"
    plain = plain and spec.get("resized_side", spec["image_size"]) == spec["image_size"]
    plain = plain and all(task["precision"] != "int4" for task in index["tasks"])
    if not (index["scope"] == "image" and index["top_k"] == 1 and plain):
        sys.exit("error: this bundle takes more than plain ONNX Runtime and these lines: use mingle_edge_runtime")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    try:
        classify = open_bundle(Path(sys.argv[1]))
        for image in sys.argv[2:]:
            print(image, *classify(Path(image)), sep="\t")
    except OSError as error:  # of Pillow, too
        sys.exit(f"error: {error}")
