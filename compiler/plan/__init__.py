"""Planning a model over several devices: described clusters, predicted times, planners, and a simulator."""
