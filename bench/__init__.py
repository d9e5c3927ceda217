"""Measures what a server costs, through the real protocol over real TLS, and writes down what was found."""
