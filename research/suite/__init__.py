"""Twenty tasks and the models fine-tuned on them, made offline; the first four tasks are the demonstration's."""
