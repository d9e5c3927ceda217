"""Adapters to the services of others: push."""
