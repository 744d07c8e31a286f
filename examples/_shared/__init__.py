"""What examples and benchmarks share, one idea a file; imports inside are relative, for scripts and benchmarks alike."""
