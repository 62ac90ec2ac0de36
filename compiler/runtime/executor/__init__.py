"""Runs a model on several devices at once: a worker process for each, requests in flight, and what if one fails."""
