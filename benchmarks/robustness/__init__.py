"""What is done to inputs, processes and files to see that no fault is silent: fuzzing, races, kills, bit flips."""
