"""What each lesson needs of its own: its task, its model, its pictures."""
