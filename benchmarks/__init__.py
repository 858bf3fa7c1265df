"""Side-by-side measurements: never timed tests, and never one side alone."""
