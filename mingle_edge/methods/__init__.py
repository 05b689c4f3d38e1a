"""Ways to turn N fine-tuned models into one, each in a file of its own, all continual: task t arrives after t - 1 others."""
