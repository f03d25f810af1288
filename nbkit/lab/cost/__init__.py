"""What a technique costs: timing, and whether the machine was quiet enough to time anything."""
