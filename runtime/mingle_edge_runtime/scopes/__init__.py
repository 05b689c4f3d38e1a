"""What serves a bundle of each scope: routes, runs, predictions."""
