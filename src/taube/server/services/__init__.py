"""What the server does, each service over the ports it needs and none over another."""
