"""Simulation without a vendor tool: g++ with the open ap_* headers, and Verilator."""
