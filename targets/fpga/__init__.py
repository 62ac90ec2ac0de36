"""FPGAs: facts of parts, loop kernels with their cycle model, HLS C++ and Verilog of them, templates."""
