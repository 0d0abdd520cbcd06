"""Ways to execute a list of run specs."""
