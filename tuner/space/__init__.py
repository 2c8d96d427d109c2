"""What is searched: dimensions, settings, feasibility."""
