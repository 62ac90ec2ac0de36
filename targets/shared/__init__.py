"""What templates and generic rules of several targets share: reading operators, and building loops in TIR."""
