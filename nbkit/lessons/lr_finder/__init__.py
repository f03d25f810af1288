"""The parts of the lesson `lr_finder`: claims, exercise, task, pictures."""
