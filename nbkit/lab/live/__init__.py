"""Live labs: sliders that retrain, and their headless counterpart."""
