"""Ways to turn N fine-tuned models into one, one file a family, all continual: task t arrives after t - 1 others."""
