"""The only room that changes parameters: the loop, its checkpoints, and the recorder that watches it."""
