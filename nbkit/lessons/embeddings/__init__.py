"""The parts of the lesson embeddings: claims, exercise, task, pictures."""
