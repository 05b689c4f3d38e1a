"""The image scope: the features, statistics and depth of the router."""
