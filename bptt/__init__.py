"""Backpropagation through time by hand, in NumPy alone: no autograd, and no knowledge of `models/`."""
