"""Child processes, and processes on a cluster."""
