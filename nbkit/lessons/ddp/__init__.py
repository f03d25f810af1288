"""The parts of the lesson `ddp`: claims, exercise, task, pictures."""
