"""The training loop of train.py shared over processes and machines; and the key/value cache."""
