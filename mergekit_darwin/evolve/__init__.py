"""The breeding run: from two parents and tasks to a child and an honest page."""
