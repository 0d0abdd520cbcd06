"""What the numbers of a run mean together: recorded series and laws side by side."""
