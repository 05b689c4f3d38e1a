"""An onboard application: camera frames in, labels out, experts read from disk only when a frame needs one.

    python examples/onboard.py BUNDLE FRAME.png [FRAME.png ...]

Needs `pip install ".[cpu]"` in a clone; torch is never imported.
"""

import sys
import time

from mingle_edge_runtime import EdgeModel


def main(bundle: str, frames: list[str]) -> None:
    """Classify the frames one by one, as they would come from a camera."""
    with EdgeModel.open(bundle, threads=2) as model:
        model.warm_up(model.tasks[:1])  # what the first minutes will need, read before the first frame
        for frame in frames:
            started = time.perf_counter()
            prediction = model.classify(frame, top=1, reject_below=0.1)[0]
            elapsed = 1000 * (time.perf_counter() - started)
            route = ", ".join(prediction.route.tasks) or "plain backbone"
            print(f"{frame}: {prediction.label or 'unknown'} ({prediction.probability:.2f}) by {route}, {elapsed:.1f} ms")
        stats = model.stats()
        print(f"experts: {stats.hits} hits, {stats.misses} misses, {stats.bytes_loaded / 1e6:.1f} MB loaded")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])
