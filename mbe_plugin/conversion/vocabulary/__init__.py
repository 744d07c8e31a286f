"""What torch's functions and a model's modules mean: catalogue, rules, decomposition, probing."""
