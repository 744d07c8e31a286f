"""Small random models of every architecture that transformers and timm know, and inputs for them."""
