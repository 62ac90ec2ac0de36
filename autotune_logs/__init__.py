"""Tuning records and cost models that come with Kompilo: data only, see README.md beside this file."""
