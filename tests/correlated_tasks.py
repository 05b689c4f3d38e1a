"""Tasks whose images have correlated features, and their statistics to the last digit."""

import numpy as np

from mingle_edge.routing.statistics import RouterStatistics


def images(seed, *, tasks=3, count=7, each=4, F=10, apart=1.0, varied=0.3):
    """Features `[n, v, F]` of each task: correlated seeds around a mean, and variations around each seed."""
    random = np.random.default_rng(seed)
    mixing = random.standard_normal((F, F))
    parts = []
    for t in range(tasks):
        seeds = random.standard_normal((count + t, 1, F)) @ mixing + apart * random.standard_normal(F)
        parts.append(seeds + varied * random.standard_normal((count + t, each, F)))
    return parts


def exactly(features):
    """Statistics in double precision with the whole scatter as its factor, nothing left out."""
    count, each, F = features.shape
    centred = (features - features.mean((0, 1))).reshape(-1, F) / np.sqrt(each)
    coordinates = np.eye(len(centred)).reshape(count, each, -1)
    return RouterStatistics(features.mean((0, 1)), centred, count, coordinates)


def scatter(features):
    """About the mean, per seed image `[F, F]`."""
    flat = (features - features.mean((0, 1))).reshape(-1, features.shape[-1])
    return flat.T @ flat / features.shape[1]
