"""Models compiled in pieces, so that several devices can share the work of a request."""
