"""What an operator sees and steers: metrics, background work, health and drain."""
