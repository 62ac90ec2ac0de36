"""Vitis HLS projects of designs: sources, scripts, host program, testbench, report."""
