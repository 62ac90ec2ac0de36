"""Reference runtimes that compiled models are measured and verified against."""
