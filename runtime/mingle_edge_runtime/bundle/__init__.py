"""The bundle on disk: its index, its rules, its files, each read only after it was checked."""
