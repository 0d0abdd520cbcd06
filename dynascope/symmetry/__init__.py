"""Which symmetries a model has: a graph of bonds, the group each bond tolerates, and the charges that follow."""
