"""Loops for operators that no template takes."""
