"""The same networks as PyTorch modules, and the Lightning modules that train them: no knowledge of `bptt/`."""
