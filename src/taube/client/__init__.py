"""The SDK: everything a person's device knows and does."""
