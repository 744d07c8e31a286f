"""What Triton compiles; all of its files import it at their top."""
