"""How charges and weights move under an optimiser, for any model.

Nothing here reads a run: every law is a pure function of float64 numbers, the measured ones named in its arguments.
Each is found in its own file: ``charge_laws`` (exact accounts), ``continuous_laws``, ``oscillator``,
``equilibrium`` and ``modified_flow``; ``step_settings`` says what the optimiser did, ``predictions`` wraps numbers
with what they assume.
"""
