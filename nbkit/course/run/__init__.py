"""Run many lessons: one after another or side by side, resumable."""
