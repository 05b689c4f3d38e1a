"""From a request that was read to its answer: limits, the queue, decoding, runs, and what is counted."""
