"""A model as a pure function of its parameters, and that function's derivatives."""
