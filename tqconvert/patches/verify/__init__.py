"""Proofs that a tree is what it claims to be, in levels."""
