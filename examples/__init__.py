"""Examples: run one with python examples/NAME.py."""
