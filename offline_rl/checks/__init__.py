"""Is the data any good: the checks that a careful colleague would make, and whether today's data is like it."""
