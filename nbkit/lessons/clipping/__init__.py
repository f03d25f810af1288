"""The parts of the lesson `clipping`: claims, exercise, task, pictures."""
