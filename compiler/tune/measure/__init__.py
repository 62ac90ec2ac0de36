"""Builds, checks and times candidates in worker processes: what a candidate does is only its own failure."""
