"""What a method costs: time, memory, operations, and how they grow."""
