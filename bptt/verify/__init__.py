"""Proof that gradients are right, or where they are wrong."""
