"""The loop-kernel IR and its consumers: reference interpreter, cycle and resource model, HLS C++, Verilog."""
