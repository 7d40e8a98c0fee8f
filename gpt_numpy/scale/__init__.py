"""The training loop on several processes and machines, and the key/value cache."""
