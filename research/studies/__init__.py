"""The studies behind docs/results.md: each is a command on a suite that `python -m research.suite` made."""
