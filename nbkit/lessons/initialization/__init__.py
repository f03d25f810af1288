"""The parts of the lesson `initialization`: claims, exercise, task, pictures."""
