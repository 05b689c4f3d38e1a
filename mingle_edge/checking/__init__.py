"""Before a merge: everything that it would find out, without merging; and a first task file from folders of checkpoints."""
