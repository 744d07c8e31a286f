"""The frameworks that the package is at home in, one file each; nothing here is imported until it is asked for."""
