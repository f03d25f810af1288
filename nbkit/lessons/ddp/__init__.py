"""Hold the parts of the lesson `ddp`: claims, exercise, task, timings, pictures."""
