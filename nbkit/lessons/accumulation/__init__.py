"""The parts of the lesson `accumulation`: claims, exercise, task, pictures."""
