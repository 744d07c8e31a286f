"""The parts of benchmarks/real_networks.py: what is run, what it costs, and the tables."""
