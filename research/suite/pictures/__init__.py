"""The rendered pictures of the suite, one file per subject. A picture is a float array `[SIDE, SIDE, 3]` in [0, 1]."""
