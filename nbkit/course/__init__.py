"""Running many lessons: headless, checked, reported."""
