"""What is measured, and what is run in bulk."""
