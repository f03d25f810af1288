"""The bench: what an experiment and a lesson need on top of the techniques."""
