"""The parts of the lesson weight_norm: claims, exercise, task, pictures."""
