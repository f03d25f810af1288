"""The lessons: claims, exercise, task and pictures of each, one folder a lesson."""
