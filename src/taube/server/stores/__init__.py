"""Engines that keep what the services ask to be kept."""
