"""The parts of the lesson `start_here`: claims, exercise, task, pictures."""
