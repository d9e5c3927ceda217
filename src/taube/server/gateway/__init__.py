"""From bytes on the port to calls of services, and back."""
