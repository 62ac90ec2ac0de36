"""What planning needs to know of models and artifacts: their operators as a graph, and times that were measured."""
