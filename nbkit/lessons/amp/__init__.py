"""The parts of the lesson `amp`: claims, exercise, task, pictures."""
