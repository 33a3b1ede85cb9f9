"""What people type: each file parses, calls and prints a group of verbs."""
