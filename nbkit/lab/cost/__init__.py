"""What a training step costs: seconds, memory, operations."""
