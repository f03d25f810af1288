"""The parts of the lesson `batchnorm`: claims, exercise, task, pictures."""
