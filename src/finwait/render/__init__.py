"""Text, JSON and CSV for people and programs."""
