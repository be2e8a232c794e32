"""Devices as a mesh, parameters by a table of rules, and the rows each process feeds."""
